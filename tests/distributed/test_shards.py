"""A step on shards is the step on the whole tensor, to the bit, given the same gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

from tests.battery.table import ROWS
from tests.contract.contenders import WAYS
from tests.engine.toy_rules import Learned, Momentum, counting

from .processes import launch

ROW, COLUMN, ALL = Shard(0), Shard(1), Replicate()

# What FSDP does to parameters, with and without replicas of it, tensor parallelism by columns, and both together.
Placements = tuple[Placement, ...]
LAYOUTS: dict[str, tuple[tuple[int, ...], Placements]] = {
    "rows": ((2,), (ROW,)),
    "columns": ((2,), (COLUMN,)),
    "whole": ((2,), (ALL,)),
    "rows over four": ((4,), (ROW,)),
    "replicated rows": ((2, 2), (ALL, ROW)),
    "rows and columns": ((2, 2), (ROW, COLUMN)),
}

# Uneven ones, and one with fewer rows than ranks, so that some have an empty part of it.
SHAPES = ((5, 3), (1, 6), (7, 2, 3))

PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float64": {"dtype": torch.float64},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "kahan": {"dtype": torch.bfloat16, "rounding": "kahan"},
    "nearest": {"dtype": torch.bfloat16, "rounding": "nearest"},
    "bfloat16 state": {"state_dtype": torch.bfloat16},
    "all bfloat16": {"dtype": torch.bfloat16, "state_dtype": torch.bfloat16},
}

SETTINGS = {"lr": 1e-2, "weight_decay": 0.1}

# AdaptiveMuon's statistics are sums of numbers, no counts: in float64 their last digit depends on the order.
SUMS = ("agreement", "energy")


class Counting(Momentum):
    """Sums two statistics over each tensor."""

    rule = counting


every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def values(seed: int, dtype: torch.dtype) -> list[Tensor]:
    """Whole tensors, the same on every rank."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]


def both(
    make: type[torch.optim.Optimizer], mesh: DeviceMesh, placements: Placements, dtype=torch.float32, **settings: Any
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Three steps of an optimizer of whole tensors, and of one of the same tensors in parts."""

    def cut(tensor: Tensor) -> Tensor:
        return distribute_tensor(tensor, mesh, placements, src_data_rank=None)

    whole = [nn.Parameter(value) for value in values(0, dtype)]
    parts = [nn.Parameter(cut(value)) for value in values(0, dtype)]
    optimizers = make(whole, **settings), make(parts, **settings)
    for step in range(1, 4):
        for one, other, grad in zip(whole, parts, values(step, dtype), strict=True):
            one.grad, other.grad = grad, cut(grad)
        for optimizer in optimizers:
            optimizer.step()
    return optimizers


def tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """All parameters and states by name."""
    for number, param in enumerate(optimizer.param_groups[0]["params"]):
        for name, tensor in {"param": param.detach(), **optimizer.state[param]}.items():
            yield f"{name} {number}", tensor


def differences(whole: torch.optim.Optimizer, parts: torch.optim.Optimizer) -> list[str]:
    """The names of the tensors whose part here is not that of the whole one to the bit, or of another dtype."""
    wrong = []
    for (name, tensor), (same, part) in zip(tensors(whole), tensors(parts), strict=True):
        if isinstance(part, DTensor):
            tensor = distribute_tensor(tensor, part.device_mesh, part.placements, src_data_rank=None).to_local()
            part = part.to_local()
        equal = nearly if tensor.dtype is torch.float64 and name.split()[0] in SUMS else torch.equal
        if name != same or tensor.dtype is not part.dtype or not equal(tensor, part):
            wrong.append(name)
    return wrong


def nearly(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-12, atol=1e-14)


def check(layout: str) -> None:
    mesh, placements = init_device_mesh("cpu", LAYOUTS[layout][0]), LAYOUTS[layout][1]
    precisions = PRECISIONS if layout == "rows" else ("float32", "all bfloat16")
    wrong = {
        (row.name, way, precision): found
        for row in ROWS
        for way, flags in WAYS.items()
        for precision in precisions
        if (found := differences(*both(row.optimizer, mesh, placements, **SETTINGS, **flags, **PRECISIONS[precision])))
    }
    for way in ("loop", "foreach"):
        if found := differences(*both(torch.optim.AdamW, mesh, placements, **SETTINGS, **WAYS[way])):
            wrong["AdamW", way, "float32"] = found
    assert not wrong, wrong


@every_layout
def test_every_optimizer_steps_parts_as_it_steps_the_whole(layout):
    """Each of ours in every way, and torch's AdamW beside them."""
    launch(check, math.prod(LAYOUTS[layout][0]), layout)


def check_statistics(layout: str) -> None:
    mesh, placements = init_device_mesh("cpu", LAYOUTS[layout][0]), LAYOUTS[layout][1]
    for way, flags in WAYS.items():
        for make in (Counting, Learned):
            if way != "fused":  # for which toy rules have not been compiled
                assert not differences(*both(make, mesh, placements, dtype=torch.float64, **flags)), (make, way)


@every_layout
def test_statistics_are_summed_over_the_parts(layout):
    """A gain that is learned from them is the same for every part of a tensor."""
    launch(check_statistics, math.prod(LAYOUTS[layout][0]), layout)


def check_partial() -> None:
    mesh = init_device_mesh("cpu", (2,))
    for row in ROWS:
        for way, flags in WAYS.items():
            for placement in (ROW, ALL):
                whole, part = nn.Parameter(torch.ones(5, 3)), nn.Parameter(torch.ones(5, 3))
                part = nn.Parameter(distribute_tensor(part.detach(), mesh, [placement], src_data_rank=None))
                here = torch.full((5, 3), 2.0 ** mesh.get_local_rank())
                whole.grad, part.grad = torch.full((5, 3), 3.0), DTensor.from_local(here, mesh, [Partial()])
                optimizers = row.optimizer([whole], **flags), row.optimizer([part], **flags)
                for optimizer in optimizers:
                    optimizer.step()
                assert not differences(*optimizers), (row.name, way, placement)


def test_gradients_that_are_still_to_be_summed_are_summed():
    launch(check_partial, 2)


def check_zero_part() -> None:
    mesh = init_device_mesh("cpu", (2,))
    for first, expected in ((0.0, 0), (1.0, 1)):
        part = nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [ROW], src_data_rank=None))
        grad = torch.zeros(4, 3)
        grad[0] = first  # on rank 0, while the part of rank 1 is zero
        part.grad = distribute_tensor(grad, mesh, [ROW], src_data_rank=None)
        optimizer = ROWS[0].optimizer([part], lr=0.0)
        optimizer.step()
        assert optimizer.state[part]["step"] == expected


def test_ranks_agree_on_whether_a_first_step_counts():
    """Warm-up from a rate of zero is a step, unlike the one that torch takes to have the state created."""
    launch(check_zero_part, 2)
