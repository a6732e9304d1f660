"""A single point: the "network" of problems that are functions of their parameters alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class Point(nn.Module):
    """A vector of parameters.

    Args:
        start: Draws the initial point, a float tensor of shape (d,).

    Example:
        >>> Point(lambda: torch.ones(3))()
        Parameter containing:
        tensor([1., 1., 1.], requires_grad=True)
    """

    start: torch.Tensor

    def __init__(self, start: Callable[[], torch.Tensor]) -> None:
        super().__init__()
        self.theta = nn.Parameter(start())
        self.register_buffer("start", self.theta.detach().clone())

    def forward(self) -> torch.Tensor:
        """The point."""
        return self.theta
