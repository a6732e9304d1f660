"""Who takes part in the contract battery, and how to train with them.

torch's AdamW takes part beside our own optimizers: what it fails would be no convention of torch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.battery.table import ROWS

CONTENDERS: tuple[type[torch.optim.Optimizer], ...] = (*(row.optimizer for row in ROWS), torch.optim.AdamW)

# The ways that AdamW has on a CPU, too.
WAYS: dict[str, dict[str, Any]] = {
    "loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}

every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


every_contender = pytest.mark.parametrize("make", CONTENDERS, ids=lambda make: make.__name__)


def pairs_without(missing: str) -> pytest.MarkDecorator:
    """Every optimizer in every way, but for one pair "optimizer-way" that torch itself falls short in."""
    pairs = {f"{make.__name__}-{name}": (make, way) for make in CONTENDERS for name, way in WAYS.items()}
    del pairs[missing]
    return pytest.mark.parametrize(("make", "way"), list(pairs.values()), ids=list(pairs))


# torch's compiled AdamW walks storage from the first element on, whatever the strides, and tells autograd nothing.
every_way_that_knows_strides = pairs_without("AdamW-fused")
every_way_that_tells_autograd = pairs_without("AdamW-fused")


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A small network, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def batch(step: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """The inputs and targets of one step."""
    generator = torch.Generator().manual_seed(1000 + step)
    inputs = torch.randn(16, 4, generator=generator, dtype=dtype)
    return inputs, torch.randn(16, 3, generator=generator, dtype=dtype)


def loss_of(model: nn.Module, step: int) -> Tensor:
    """The loss of a network on the batch of one step."""
    inputs, targets = batch(step, next(model.parameters()).dtype)
    return nn.functional.mse_loss(model(inputs), targets)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> None:
    """Trains a network in the usual loop."""
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def parameters(count: int = 2, seed: int = 0) -> list[Tensor]:
    """Leaves of different shapes, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((4, 3), (5,), (), (2, 2))
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes[:count]]


def feed(params: Iterable[Tensor], step: int) -> None:
    """Gives each parameter a gradient that depends on the step and its shape only."""
    for param in params:
        generator = torch.Generator().manual_seed(step)
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)


def run(optimizer: torch.optim.Optimizer, params: Iterable[Tensor], steps: Iterable[int]) -> None:
    """Steps on recorded gradients; the others have none."""
    params = list(params)
    for step in steps:
        optimizer.zero_grad()
        feed(params, step)
        optimizer.step()


def twins(params: Iterable[Tensor]) -> list[Tensor]:
    """Leaves of their own with the same values."""
    return [param.detach().clone().requires_grad_(param.requires_grad) for param in params]


def snapshot(optimizer: torch.optim.Optimizer) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """The values of all parameters and of their state."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    return [param.detach().clone() for param in params], [copy.deepcopy(dict(optimizer.state[p])) for p in params]


def same(mine: Iterable[Tensor], yours: Iterable[Tensor]) -> bool:
    """Whether two lists of tensors are equal to the bit."""
    return all(torch.equal(a, b) for a, b in zip(mine, yours, strict=True))


def assert_unchanged(optimizer: torch.optim.Optimizer, before: tuple[list[Tensor], list[dict[str, Any]]]) -> None:
    """Asserts that neither a parameter nor its state has changed since the snapshot."""
    params, states = snapshot(optimizer)
    assert same(params, before[0])
    for now, then in zip(states, before[1], strict=True):
        assert now.keys() == then.keys()
        assert same(now.values(), then.values())
