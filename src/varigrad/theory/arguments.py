"""Numbers or tensors in, float64 in between, the same kind out; and the message for what is out of range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TypeVar, overload

import torch
from torch import Tensor

__all__ = [
    "ANY",
    "COUNT",
    "EXTENDED",
    "FINITE",
    "NONNEGATIVE",
    "POSITIVE",
    "Number",
    "Range",
    "as_count",
    "as_float64",
    "as_number",
    "like",
]

Number = TypeVar("Number", float, Tensor)


@dataclass(frozen=True)
class Range:
    """An interval of real numbers, or the whole numbers in it; NaN is in none.

    Attributes:
        low: The lower bound.
        high: The upper bound.
        open_low: Whether the lower bound itself is refused.
        open_high: Whether the upper bound itself is refused.
        whole: Whether only whole numbers, and infinity where it is in the interval, are accepted.

    Example:
        >>> str(Range(0.0, 1.0, open_high=True))
        'a number in [0, 1)'
    """

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False
    whole: bool = False

    def __str__(self) -> str:
        low, high = (f"{bound:g}".replace("inf", "∞") for bound in (self.low, self.high))
        kind = "whole number" if self.whole else "number"
        return f"a {kind} in {'(' if self.open_low else '['}{low}, {high}{')' if self.open_high else ']'}"

    def holds(self, values: Tensor) -> Tensor:
        """Returns which of the values are accepted."""
        above = values > self.low if self.open_low else values >= self.low
        below = values < self.high if self.open_high else values <= self.high
        return above & below & (values == values.round()) if self.whole else above & below


ANY = Range(-math.inf, math.inf)
FINITE = Range(-math.inf, math.inf, open_low=True, open_high=True)
EXTENDED = Range(0.0, math.inf)
NONNEGATIVE = Range(0.0, math.inf, open_high=True)
POSITIVE = Range(0.0, math.inf, open_low=True, open_high=True)
COUNT = Range(1.0, math.inf, open_high=True, whole=True)


def as_float64(name: str, value: object, accepted: Range) -> Tensor:
    """Returns an argument as a float64 tensor on its device.

    Args:
        name: What the value is for, as the user wrote it.
        value: A number or a real tensor.
        accepted: The range that every entry must be in.

    Raises:
        TypeError: If it is neither.
        ValueError: If an entry is out of range; the message has the first such entry.
    """
    if isinstance(value, Tensor):
        if value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"{name} has dtype {value.dtype}: it must be a real tensor or a number")
        numbers = value.to(torch.float64)
    elif isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} = {value!r} is not accepted: it must be a number or a real tensor")
    else:
        numbers = torch.tensor(float(value), dtype=torch.float64, device="cpu")
    inside = accepted.holds(numbers)
    if not inside.all():
        refused = numbers[~inside].flatten()[0].item()
        entry = "has the entry" if isinstance(value, Tensor) else "="
        raise ValueError(f"{name} {entry} {refused!r}, which is not accepted: it must be {accepted}")
    return numbers


def as_number(name: str, value: object, accepted: Range) -> float:
    """Returns an argument that must be one number as a float.

    Raises:
        TypeError: If it is neither a number nor a real tensor.
        ValueError: If it has more or less than one entry, or is out of range.
    """
    number = as_float64(name, value, accepted)
    if number.numel() != 1:
        raise ValueError(f"{name} has shape {tuple(number.shape)}, which is not accepted: it must be {accepted}")
    return number.item()


def as_count(name: str, value: object) -> int:
    """Returns an argument that must be a positive whole number.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is below 1.
    """
    if not isinstance(value, Integral):
        raise TypeError(f"{name} = {value!r} is not accepted: it must be an integer")
    return int(as_number(name, value, COUNT))


@overload
def like(result: Tensor, first: float, *others: float) -> float: ...


@overload
def like(result: Tensor, first: Tensor, *others: float | Tensor) -> Tensor: ...


def like(result: Tensor, first: float | Tensor, *others: float | Tensor) -> float | Tensor:
    """Returns the result as a float if all the arguments it was computed from are numbers."""
    return result if any(isinstance(argument, Tensor) for argument in (first, *others)) else result.item()
