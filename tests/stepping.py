"""Stepping an optimizer on recorded gradients: what the tests of limits and identities have in common."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def noise(seed: int = 0, scale: float = 1.0, steps: int = 200, size: int = 40) -> Tensor:
    """Independent normal gradients, (steps, size), float64."""
    return scale * torch.randn(steps, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def run(
    optimizer_class: type[torch.optim.Optimizer],
    gradients: Tensor,
    lr: float | list[float] = 1e-2,
    start: Tensor | None = None,
    each: Callable[[dict[str, Tensor]], None] | None = None,
    **arguments: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Steps a weight vector through `gradients`; returns its positions and its state, calls `each` after every step."""
    param = (torch.zeros_like(gradients[0]) if start is None else start.clone()).requires_grad_()
    rates = [lr] * len(gradients) if isinstance(lr, float) else lr
    optimizer = optimizer_class([param], lr=rates[0], **arguments)
    trail = [param.detach().clone()]
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        param.grad = gradient.clone()
        optimizer.step()
        trail.append(param.detach().clone())
        if each is not None:
            each(optimizer.state[param])
    return torch.stack(trail), optimizer.state[param]


def relative_error(ours: Tensor, exact: Tensor) -> float:
    """The largest difference against the largest value."""
    return ((ours - exact).abs().max() / exact.abs().max()).item()
