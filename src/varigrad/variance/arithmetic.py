"""The arithmetic of sample variances."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Moments", "is_unseen", "join", "working_dtype"]


def working_dtype(tensor: Tensor) -> torch.dtype:
    """Statistics are computed in float32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)


def is_unseen(tensor: Tensor) -> bool:
    """Whether nobody but the caller has this tensor's memory, so that it can be used again: new memory costs a pass."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    # One use is the tensor's, one that of the object that is asked here.
    return count is not None and tensor.is_cpu and count(tensor.untyped_storage()._cdata) == 2


class Moments(NamedTuple):
    """What is known of M terms c_n, independent of each other, whose sum is a gradient.

    Attributes:
        size: M.
        total: Σ c_n.
        variance: The unbiased variance of that sum, M/(M-1) Σ (c_n - c̄)²; 0 if M = 1.
    """

    size: int
    total: Tensor
    variance: Tensor


def join(first: Moments, second: Moments) -> Moments:
    """The moments of two disjoint sets of terms together.

    Their squared deviations add up, and n₁n₂/(n₁+n₂) times the squared difference of their means beside them.
    """
    n1, n2 = first.size, second.size
    difference = (first.total / n1).sub_(second.total, alpha=1 / n2)
    variance = difference.square_().mul_(n1 * n2 / (n1 + n2))
    variance.add_(first.variance, alpha=(n1 - 1) / n1).add_(second.variance, alpha=(n2 - 1) / n2)
    return Moments(n1 + n2, first.total + second.total, variance.mul_((n1 + n2) / (n1 + n2 - 1)))
