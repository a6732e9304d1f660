"""Data-parallel training is training on the joined batch, and the replicas never part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from .processes import launch
from .training import OPTIMIZERS, WAYS, loss_of, network, train

# float64 is where a mistake cannot hide behind rounding.
TOLERANCES = {torch.float32: 1e-6, torch.float64: 1e-13}

LOW: dict[str, dict[str, Any]] = {
    "stochastic": {},
    "kahan": {"rounding": "kahan"},
    "nearest": {"rounding": "nearest"},
    "bfloat16 state": {"state_dtype": torch.bfloat16},
}


def assert_replicas_are_equal(tensor: Tensor, name: object) -> None:
    copies = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(copies, tensor.contiguous())
    assert all(torch.equal(copies[0], copy) for copy in copies), name


def check_joined_batch(options: dict[str, Any]) -> None:
    ways = WAYS if not options else {"": {}}
    for dtype, tolerance in TOLERANCES.items():
        for make in OPTIMIZERS:
            for way, flags in ways.items():
                alone, shared = network(dtype), network(dtype)
                train(alone, make(alone.parameters(), lr=1e-2, weight_decay=0.1, **flags), range(4), dtype=dtype)
                model = DistributedDataParallel(shared, **options)
                optimizer = make(model.parameters(), lr=1e-2, weight_decay=0.1, **flags)
                train(model, optimizer, range(4), shared=True, dtype=dtype)
                for one, other in zip(alone.parameters(), shared.parameters(), strict=True):
                    torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance)
                    assert_replicas_are_equal(other.detach(), (make, way, dtype))


@pytest.mark.parametrize(
    "options", [{}, {"gradient_as_bucket_view": True}, {"static_graph": True}], ids=["plain", "views", "static"]
)
def test_two_ranks_train_as_one_on_the_joined_batch(options):
    launch(check_joined_batch, 2, options)


def check_replicas() -> None:
    for make in OPTIMIZERS[:-1]:
        for name, settings in LOW.items():
            model = DistributedDataParallel(network(torch.bfloat16))
            optimizer = make(model.parameters(), lr=1e-3, **settings)
            train(model, optimizer, range(4), shared=True, dtype=torch.bfloat16)
            for number, param in enumerate(model.parameters()):
                assert_replicas_are_equal(param.detach(), (make, name, number))
                for state, value in optimizer.state[param].items():
                    assert_replicas_are_equal(value, (make, name, number, state))


def test_replicas_in_bfloat16_stay_equal_to_the_bit():
    """Also where what is stored is rounded at random: the numbers are the same on every rank."""
    launch(check_replicas, 2)


def check_accumulation() -> None:
    for make in OPTIMIZERS:
        alone, shared = network(torch.float64), network(torch.float64)
        model = DistributedDataParallel(shared)
        optimizers = make(alone.parameters(), lr=1e-2), make(model.parameters(), lr=1e-2)
        for step in range(3):
            for optimizer in optimizers:
                optimizer.zero_grad()
            for part in range(4):
                (loss_of(alone, step, torch.float64, part, 4) / 4).backward()
            # Each rank goes through two of the four parts, and the gradients are exchanged after the second.
            first = 2 * distributed.get_rank()
            with model.no_sync():
                (loss_of(model, step, torch.float64, first, 4) / 2).backward()
            (loss_of(model, step, torch.float64, first + 1, 4) / 2).backward()
            for optimizer in optimizers:
                optimizer.step()
        for one, other in zip(alone.parameters(), shared.parameters(), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-13, atol=1e-13)


def test_gradients_can_be_accumulated():
    launch(check_accumulation, 2)


def check_divided_state() -> None:
    for make in OPTIMIZERS:
        alone, shared = network(torch.float64), network(torch.float64)
        train(alone, make(alone.parameters(), lr=1e-2), range(4), dtype=torch.float64)
        model = DistributedDataParallel(shared)
        optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=make, lr=1e-2)
        train(model, optimizer, range(4), shared=True, dtype=torch.float64)
        for one, other in zip(alone.parameters(), shared.parameters(), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-13, atol=1e-13)
        optimizer.consolidate_state_dict(to=0)
        if distributed.get_rank() == 0:
            kept = make(alone.parameters(), lr=1e-2)
            kept.load_state_dict(optimizer.state_dict())
            assert all(state["step"] == 4 for state in kept.state.values())


def test_the_zero_redundancy_optimizer_divides_the_state_among_ranks():
    launch(check_divided_state, 2)
