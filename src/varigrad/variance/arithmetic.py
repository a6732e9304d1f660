"""The arithmetic of sample variances: sums, squared deviations, and how those of two sets are joined."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Moments", "join", "working_dtype"]


def working_dtype(tensor: Tensor) -> torch.dtype:
    """Statistics are computed in float32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)


class Moments(NamedTuple):
    """M terms: their number, their sum, and the sum of their squared deviations from their mean."""

    count: int
    total: Tensor
    deviations: Tensor

    def variance(self) -> Tensor:
        """Returns the unbiased variance of the sum, M/(M-1) times the squared deviations."""
        return self.deviations * (self.count / (self.count - 1))


def join(first: Moments, second: Moments) -> Moments:
    """The moments of two disjoint sets of terms together.

    The squared deviations add up, and beside them n₁n₂/(n₁+n₂) times the squared difference of the means counts.
    """
    count = first.count + second.count
    difference = first.total / first.count - second.total / second.count
    between = difference.square_().mul_(first.count * second.count / count)
    return Moments(count, first.total + second.total, between.add_(first.deviations).add_(second.deviations))
