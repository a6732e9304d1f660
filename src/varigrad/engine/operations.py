"""The operations a rule is made of: one row each, one column for every way of running them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["OPERATIONS", "Operation", "Scalar", "evaluate"]

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
    "sign": Operation(_sign, torch.sign, "sign"),
    # clamp, unlike torch.maximum, takes a number for its bound; both pass a NaN on.
    "maximum": Operation(max, lambda x, low: torch.clamp(x, min=low), "maximum"),
    "minimum": Operation(min, lambda x, high: torch.clamp(x, max=high), "minimum"),
    "greater": Operation(operator.gt, operator.gt, None),
    "less": Operation(operator.lt, operator.lt, None),
    "where": Operation(_select, torch.where, None),
}


def evaluate(operation: str, *arguments: Any) -> Any:
    """Computes an operation on numbers, or on tensors where any argument is one."""
    row = OPERATIONS[operation]
    return (row.tensor if any(isinstance(argument, Tensor) for argument in arguments) else row.number)(*arguments)
