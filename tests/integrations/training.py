"""What all trainers are asked to train, and the plain loop that they must agree with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.contract.contenders import batch, every_contender, network, same

__all__ = [
    "BATCHES",
    "assert_same_state",
    "every_contender",
    "groups",
    "halving",
    "loader",
    "network",
    "plain_loop",
    "same",
]

BATCHES = 5
"""The batches of an epoch: an odd number, so that accumulating two leaves one."""


Make = Callable[..., torch.optim.Optimizer]


def loader(dtype: torch.dtype = torch.float32) -> DataLoader[tuple[Tensor, ...]]:
    """One epoch of batches, always in the same order."""
    inputs, targets = (torch.cat(column) for column in zip(*map(batch, range(BATCHES)), strict=True))
    return DataLoader(TensorDataset(inputs.to(dtype), targets.to(dtype)), batch_size=16)


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups with settings of their own, in the order of the model's parameters."""
    first, last = model[0], model[-1]
    return [
        {"params": list(first.parameters()), "weight_decay": 0.1},
        {"params": list(last.parameters()), "lr": 3e-3},
    ]


def halving(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """A schedule that changes the learning rate at every step."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (1.0 + step))


def plain_loop(
    make: Make,
    epochs: int,
    *,
    accumulate: int = 1,
    lone_counts_wholly: bool = False,
    clip: float | None = None,
    groups: Callable[[nn.Module], list[dict[str, Any]]] = groups,
    schedule: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] = halving,
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Trains without any trainer; the last batch of an epoch is stepped on even if it is alone.

    Trainers differ in what the gradient of that lone batch is divided by: `accumulate`, or 1.
    """
    model = network()
    optimizer = make(groups(model), lr=1e-2)
    scheduler = schedule(optimizer)
    for _ in range(epochs):
        for number, (inputs, targets) in enumerate(loader(), 1):
            loss = nn.functional.mse_loss(model(inputs), targets)
            lone = lone_counts_wholly and number == BATCHES and number % accumulate == 1
            (loss if lone else loss / accumulate).backward()
            if number % accumulate and number < BATCHES:
                continue
            if clip is not None:
                assert nn.utils.clip_grad_norm_(model.parameters(), clip) > clip
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return model, optimizer


def assert_same_state(mine: torch.optim.Optimizer, yours: torch.optim.Optimizer) -> None:
    """Asserts that two optimizers have the same settings, and the same state to the bit and in the same dtype."""
    mine, yours = mine.state_dict(), yours.state_dict()
    assert mine["param_groups"] == yours["param_groups"]
    assert mine["state"].keys() == yours["state"].keys()
    for key, state in mine["state"].items():
        assert state.keys() == yours["state"][key].keys()
        for name, value in state.items():
            assert value.dtype == yours["state"][key][name].dtype
            assert torch.equal(value, yours["state"][key][name]), f"{name} of parameter {key}"
