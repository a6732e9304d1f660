"""The loop way: the rule is called on one tensor after the other, as it is written.

It is the reference for every other way, and the one that autograd can follow (`differentiable=True`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .operations import total
from .rule import Rule

__all__ = ["run"]


def run(
    rule: Rule,
    tensors: dict[str, list[Tensor]],
    scalars: Mapping[str, float | list[Any]],
    maximize: bool,
) -> dict[str, list[Tensor]]:
    """Runs `rule` on every tensor of a bucket.

    Args:
        rule: The rule.
        tensors: For every name in `rule.elements` the tensors of the bucket. Afterwards the lists hold the new
            parameters and state; the gradients are not touched.
        scalars: The rule's keyword arguments: one number for the bucket, or one for each tensor, which may be 0-dim.
        maximize: Climb instead of descend.

    Returns:
        For every name in `rule.statistics` its sum over each tensor.
    """
    sums: dict[str, list[Tensor]] = {name: [] for name in rule.statistics}
    for index in range(len(tensors["param"])):
        elements = [tensors[name][index] for name in rule.elements]
        keywords = {name: value[index] if isinstance(value, list) else value for name, value in scalars.items()}
        for name, value in zip(rule.results, rule(*elements, maximize=maximize, **keywords), strict=True):
            if name in sums:
                sums[name].append(total(value))
            else:
                # What the rule returns untouched may be about to be written over.
                tensors[name][index] = value.clone() if any(value is element for element in elements) else value
    return sums
