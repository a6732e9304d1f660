"""What values a hyperparameter accepts, and the one message that says so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Protocol

from torch import Tensor

__all__ = ["Accepts", "Interval", "LearningRate", "OneOf", "OrNone", "Pair", "Switch", "SwitchOr"]


class Accepts(Protocol):
    """The values that a hyperparameter accepts."""

    def check(self, name: str, value: object) -> None:
        """Checks one value.

        Args:
            name: What the value is for, as the user wrote it.
            value: The value.

        Raises:
            TypeError: If it is of the wrong type.
            ValueError: If it is out of range.
        """


def _refusal(name: str, value: object, accepted: object) -> str:
    return f"{name} = {value!r} is not accepted: it must be {accepted}"


@dataclass(frozen=True)
class Interval:
    """A finite number between two bounds.

    Attributes:
        low: The lower bound.
        high: The upper bound; infinity means any finite number.
        open_low: Whether the lower bound itself is refused.
        open_high: Whether the upper bound itself is refused.

    Example:
        >>> Interval(0.0, 1.0, open_high=True).check("beta", 1.0)
        Traceback (most recent call last):
        ValueError: beta = 1.0 is not accepted: it must be a number >= 0 and < 1
    """

    low: float = 0.0
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __str__(self) -> str:
        bounds = f"a number {'>' if self.open_low else '>='} {self.low:g}"
        if math.isinf(self.high):
            return f"a finite {bounds[2:]}"
        return f"{bounds} and {'<' if self.open_high else '<='} {self.high:g}"

    def check(self, name: str, value: object) -> None:
        """Checks that `value` is a number inside the interval."""
        # What a number is most often is looked at first: to ask an abstract class takes long.
        if isinstance(value, bool) or not isinstance(value, (float, Real)):
            raise TypeError(_refusal(name, value, self))
        number = float(value)
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high or math.isinf(self.high) else number <= self.high
        if not (above and below):
            raise ValueError(_refusal(name, value, self))


@dataclass(frozen=True)
class LearningRate:
    """A finite number >= 0, or a tensor that holds one.

    The value of a tensor on an accelerator is not looked at, because that would make the host wait.
    """

    def __str__(self) -> str:
        return "a finite number >= 0 or a floating-point tensor with one element that is one"

    def check(self, name: str, value: object) -> None:
        """Checks that `value` is a learning rate."""
        if isinstance(value, bool) or not isinstance(value, (float, Real, Tensor)):
            raise TypeError(_refusal(name, value, self))
        if isinstance(value, Tensor):
            if value.numel() != 1 or not value.is_floating_point():
                raise ValueError(_refusal(name, value, self))
            if value.device.type != "cpu":
                return
            value = value.item()
        if not 0.0 <= float(value) < math.inf:
            raise ValueError(_refusal(name, value, self))


@dataclass(frozen=True)
class Pair:
    """Two values, each of which is accepted by `each`."""

    each: Accepts

    def __str__(self) -> str:
        return f"a pair, each of it {self.each}"

    def check(self, name: str, value: object) -> None:
        """Checks both values of the pair."""
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise TypeError(_refusal(name, value, self))
        if len(value) != 2:
            raise ValueError(_refusal(name, value, self))
        for index, item in enumerate(value):
            self.each.check(f"{name}[{index}]", item)


@dataclass(frozen=True)
class OrNone:
    """What `accepted` accepts, or None for a default that depends on the other arguments."""

    accepted: Accepts

    def __str__(self) -> str:
        return f"{self.accepted}, or None"

    def check(self, name: str, value: object) -> None:
        """Checks that `value` is None or accepted."""
        if value is None:
            return
        try:
            self.accepted.check(name, value)
        except (TypeError, ValueError) as error:
            raise type(error)(_refusal(name, value, self)) from None


@dataclass(frozen=True)
class OneOf:
    """One of a few words, or of a few other values of one type."""

    values: tuple[object, ...]

    def __str__(self) -> str:
        return " or ".join(map(repr, self.values))

    def check(self, name: str, value: object) -> None:
        """Checks that `value` is one of the values."""
        if not isinstance(value, type(self.values[0])):
            raise TypeError(_refusal(name, value, self))
        if value not in self.values:
            raise ValueError(_refusal(name, value, self))


@dataclass(frozen=True)
class Switch:
    """True or False, or None for a choice that is left to the library."""

    optional: bool = False

    def __str__(self) -> str:
        return "True, False or None" if self.optional else "True or False"

    def check(self, name: str, value: object) -> None:
        """Checks that `value` is a switch position."""
        if not (isinstance(value, bool) or (self.optional and value is None)):
            raise TypeError(_refusal(name, value, self))


@dataclass(frozen=True)
class SwitchOr:
    """True or False, or something else that is accepted."""

    accepted: Accepts

    def __str__(self) -> str:
        return f"{Switch()}, or {self.accepted}"

    def check(self, name: str, value: object) -> None:
        """Checks that `value` is a switch position, or else accepted."""
        if isinstance(value, bool):
            return
        if not isinstance(value, Real):
            raise TypeError(_refusal(name, value, self))
        self.accepted.check(name, value)
