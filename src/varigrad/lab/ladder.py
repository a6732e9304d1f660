"""The learning rates that are tried: {1, 3} times the powers of ten."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def ladder(lowest: float, highest: float) -> tuple[float, ...]:
    """All rungs from `lowest` to `highest`, both included.

    Args:
        lowest: A rung, such as `1e-4`.
        highest: A rung that is not below it, such as `3e-1`.

    Raises:
        ValueError: One of the two is not of the form {1, 3} x 10^k.

    Example:
        >>> ladder(1e-3, 3e-2)
        (0.001, 0.003, 0.01, 0.03)
    """
    return tuple(_rung(index) for index in range(_index(lowest), _index(highest) + 1))


def require_rungs(rates: Sequence[float]) -> None:
    """Find out whether rates can be climbed.

    Args:
        rates: What is tried first.

    Raises:
        ValueError: There are none, they do not rise, or one is no rung.

    Example:
        >>> require_rungs((1e-3, 1e-2))
    """
    if not rates or any(low >= high for low, high in itertools.pairwise(rates)):
        raise ValueError("expected one or more learning rates, from low to high")
    for rate in rates:
        _index(rate)


def below(rung: float) -> float:
    """The next lower rung.

    Example:
        >>> below(1e-3)
        0.0003
    """
    return _rung(_index(rung) - 1)


def above(rung: float) -> float:
    """The next higher rung.

    Example:
        >>> above(1e-3)
        0.003
    """
    return _rung(_index(rung) + 1)


def _rung(index: int) -> float:
    exponent, odd = divmod(index, 2)
    return float(f"{3 if odd else 1}e{exponent}")  # parsed, not multiplied: 0.003 and not 0.0030000000000000001


def _index(rung: float) -> int:
    digit, exponent = f"{rung:.0e}".split("e")
    index = 2 * int(exponent) + (digit == "3")
    if _rung(index) != rung:
        raise ValueError(f"not a rung of the ladder: {rung!r} (accepted: 1 or 3 times a power of ten)")
    return index
