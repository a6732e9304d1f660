"""A small network, its data, and the loop that it is trained in, on one rank or on its share of several."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn

from tests.battery.table import ROWS
from tests.contract.contenders import WAYS

__all__ = ["OPTIMIZERS", "WAYS", "loss_of", "network", "train", "whole"]

OPTIMIZERS: tuple[type[torch.optim.Optimizer], ...] = (*(row.optimizer for row in ROWS), torch.optim.AdamW)
BATCH = 8


def network(dtype: torch.dtype = torch.float32, width: int = 5) -> nn.Sequential:
    """A network, the same every time; 5 rows do not divide by 2, and 1 is fewer than the ranks are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 6), nn.Tanh(), nn.Linear(6, 1)).to(dtype)


def loss_of(model: nn.Module, step: int, dtype: torch.dtype, part: int = 0, parts: int = 1) -> Tensor:
    """The mean loss over one of the equal parts of a step's batch."""
    generator = torch.Generator().manual_seed(1000 + step)
    inputs = torch.randn(BATCH, 4, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randn(BATCH, 1, generator=generator, dtype=torch.float64).to(dtype)
    here = slice(part * BATCH // parts, (part + 1) * BATCH // parts)
    return nn.functional.mse_loss(model(inputs[here]), targets[here])


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: Iterable[int],
    *,
    shared: bool = False,
    clip: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Trains a network; with `shared`, this rank computes on its part of each batch only."""
    part, parts = (distributed.get_rank(), distributed.get_world_size()) if shared else (0, 1)
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step, dtype, part, parts).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


def whole(tensor: Any) -> Tensor:
    """A tensor put together from its parts."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
