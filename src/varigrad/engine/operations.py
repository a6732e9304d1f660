"""The operations a rule is made of: one row each, one column for every way of running them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["OPERATIONS", "Operation", "Scalar", "evaluate", "total"]

Scalar = float | Tensor
"""A number that is the same for every element: a float, or a 0-dim tensor where the host must not wait for it."""


class Operation(NamedTuple):
    """How one operation is spelled, on numbers, on tensors and on lists of tensors."""

    number: Callable[..., float]
    tensor: Callable[..., Tensor]
    foreach: str | None
    """The name in `torch._foreach_<name>`; None where torch has no such kernel and the list is walked."""


def _select(condition: bool | float, chosen: float, other: float) -> float:
    return chosen if condition else other


def _where(condition: Tensor | bool, x: Any, y: Any) -> Tensor:
    if isinstance(condition, bool):
        # Not x or y itself: the result of an operation may be written over.
        condition = torch.tensor(condition, device=(x if isinstance(x, Tensor) else y).device)
    elif condition.dim() and not (isinstance(x, Tensor) or isinstance(y, Tensor)):
        raise TypeError(f"where needs a value for each element on one side at least, not {x!r} and {y!r}")
    return torch.where(condition, x, y)


def _larger(x: float, low: float) -> float:
    return low if x < low or math.isnan(low) else x


def _smaller(x: float, high: float) -> float:
    return high if x > high or math.isnan(high) else x


def _sign(x: float) -> float:
    return math.copysign(1.0, x) if x else x


OPERATIONS: dict[str, Operation] = {
    "add": Operation(operator.add, operator.add, "add"),
    "sub": Operation(operator.sub, operator.sub, "sub"),
    "mul": Operation(operator.mul, operator.mul, "mul"),
    "div": Operation(operator.truediv, operator.truediv, "div"),
    "neg": Operation(operator.neg, operator.neg, "neg"),
    "sqrt": Operation(math.sqrt, torch.sqrt, "sqrt"),
    "abs": Operation(abs, abs, "abs"),
    "copysign": Operation(math.copysign, torch.copysign, None),
    "sign": Operation(_sign, torch.sign, "sign"),
    # clamp, unlike torch.maximum, takes a number for its bound. A NaN on either side is passed on.
    "maximum": Operation(_larger, lambda x, low: torch.clamp(x, min=low), "maximum"),
    "minimum": Operation(_smaller, lambda x, high: torch.clamp(x, max=high), "minimum"),
    "greater": Operation(operator.gt, operator.gt, None),
    "less": Operation(operator.lt, operator.lt, None),
    "where": Operation(_select, _where, None),
}


def evaluate(operation: str, *arguments: Any) -> Any:
    """Computes an operation on numbers, or on tensors where any argument is one."""
    row = OPERATIONS[operation]
    return (row.tensor if any(isinstance(argument, Tensor) for argument in arguments) else row.number)(*arguments)


def total(values: Tensor) -> Tensor:
    """Returns the sum of a statistic over a tensor, with digits enough that the order does not matter; 0-dim."""
    return values.sum() if values.device.type == "mps" else values.sum(dtype=torch.float64)
