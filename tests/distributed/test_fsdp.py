"""Training whose parameters are dealt out over the ranks equals training that has them whole."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from .processes import launch
from .training import OPTIMIZERS, WAYS, loss_of, network, train, whole


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weights decay, biases do not and learn faster."""
    named = dict(model.named_parameters())
    return [
        {"params": [param for name, param in named.items() if "weight" in name], "weight_decay": 0.1},
        {"params": [param for name, param in named.items() if "bias" in name], "lr": 3e-2},
    ]


def sharded(model: nn.Sequential, mesh: DeviceMesh | None = None, **policies: Any) -> nn.Sequential:
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh, **policies)
    return fully_shard(model, mesh=mesh, **policies)


def parallel(model: nn.Sequential, mesh: DeviceMesh) -> nn.Sequential:
    """The rows of the first matrix and the columns of the second one, as for the two halves of a transformer's MLP."""
    return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


def assert_equal(parts: nn.Module, alone: nn.Module, tolerance: float, what: object) -> None:
    for (name, part), param in zip(parts.named_parameters(), alone.parameters(), strict=True):
        far = (whole(part.detach()) - param.detach()).abs() > tolerance * (1 + param.detach().abs())
        assert not far.any(), (what, name)


def alike(state: Tensor, param: DTensor) -> bool:
    return isinstance(state, DTensor) and state.placements == param.placements and state.shape == param.shape


def mesh_for(kind: str) -> DeviceMesh:
    if kind == "replicas of shards":
        return init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    return init_device_mesh("cpu", (2,) if kind == "shards" else (4,))


MESHES = {"shards": 2, "shards over four": 4, "replicas of shards": 4}


def check_shards(kind: str) -> None:
    mesh = mesh_for(kind)
    once = {"default": {}}
    runs = (
        [(torch.float64, 1e-13, WAYS), (torch.float32, 1e-6, once)]
        if mesh.size() == 2
        else [(torch.float64, 1e-13, once)]
    )
    for dtype, tolerance, ways in runs:
        for make in OPTIMIZERS:
            for way, flags in ways.items():
                alone, parts = network(dtype), sharded(network(dtype), mesh)
                train(alone, make(groups(alone), lr=1e-2, **flags), range(4), clip=0.5, dtype=dtype)
                optimizer = make(groups(parts), lr=1e-2, **flags)
                train(parts, optimizer, range(4), shared=True, clip=0.5, dtype=dtype)
                assert_equal(parts, alone, tolerance, (make, way, dtype))
                for param, state in optimizer.state.items():
                    assert all(alike(value, param) for value in state.values() if value.dim()), (make, way)


@pytest.mark.parametrize("kind", MESHES)
def test_fsdp_trains_as_one_rank_on_the_joined_batch(kind):
    """With groups that decay differently, clipped gradients, and parts that are uneven or empty."""
    launch(check_shards, MESHES[kind], kind)


def check_accumulation() -> None:
    for make in OPTIMIZERS:
        alone, parts = network(torch.float64), sharded(network(torch.float64))
        optimizers = make(alone.parameters(), lr=1e-2), make(parts.parameters(), lr=1e-2)
        rank = torch.distributed.get_rank()
        for step in range(3):
            for optimizer in optimizers:
                optimizer.zero_grad()
            for part in range(4):
                (loss_of(alone, step, torch.float64, part, 4) / 4).backward()
            for turn in range(2):
                parts.set_requires_gradient_sync(turn == 1)
                (loss_of(parts, step, torch.float64, 2 * rank + turn, 4) / 2).backward()
            for optimizer in optimizers:
                optimizer.step()
        assert_equal(parts, alone, 1e-13, make)


def test_gradients_can_be_accumulated():
    launch(check_accumulation, 2)


def check_policies() -> None:
    mixed = {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)}
    offloaded = {"offload_policy": CPUOffloadPolicy(pin_memory=False)}
    for make in OPTIMIZERS:
        parts = sharded(network(), **mixed)
        optimizer = make(parts.parameters(), lr=1e-2)
        train(parts, optimizer, range(3), shared=True)
        for param, state in optimizer.state.items():
            assert param.dtype is torch.float32, make
            assert all(value.dtype is torch.float32 for value in state.values()), make
        alone, parts = network(), sharded(network(), **offloaded)
        train(alone, make(alone.parameters(), lr=1e-2), range(3))
        train(parts, make(parts.parameters(), lr=1e-2), range(3), shared=True)
        assert_equal(parts, alone, 1e-6, make)


def test_mixed_precision_and_offloading_leave_the_optimizer_its_float32_parts():
    launch(check_policies, 2)


def check_bfloat16() -> None:
    for make in OPTIMIZERS[:-1]:
        for settings in ({}, {"rounding": "kahan"}, {"state_dtype": torch.bfloat16}):
            parts = sharded(network(torch.bfloat16))
            alone = network(torch.bfloat16)
            optimizers = make(parts.parameters(), lr=1e-3, **settings), make(alone.parameters(), lr=1e-3, **settings)
            for step in range(4):
                train(parts, optimizers[0], [step], shared=True, dtype=torch.bfloat16)
                # The same gradients for the one that has the parameters whole.
                for part, param in zip(parts.parameters(), alone.parameters(), strict=True):
                    param.grad = whole(part.grad)
                optimizers[1].step()
            assert_equal(parts, alone, 0.0, (make, settings))


def test_bfloat16_parts_are_rounded_as_the_whole_is():
    """To the bit: the random numbers are numbered by the element's place in the whole tensor."""
    launch(check_bfloat16, 2)


def check_tensor_parallel(meshes: tuple[int, ...]) -> None:
    mesh = init_device_mesh("cpu", meshes, mesh_dim_names=("data", "tensor")[-len(meshes) :])
    for make in OPTIMIZERS:
        for way in ("loop", "foreach", "fused"):
            if make is torch.optim.AdamW and way != "loop":
                continue  # it does not take tensors that are cut beside tensors that are not
            flags = WAYS[way]
            alone = network(torch.float64, width=6)
            parts = parallel(network(torch.float64, width=6), mesh["tensor"])
            if "data" in mesh.mesh_dim_names:
                fully_shard(parts, mesh=mesh["data"])
            optimizer = make(parts.parameters(), lr=1e-2, **flags)
            train(alone, make(alone.parameters(), lr=1e-2, **flags), range(4), dtype=torch.float64)
            for step in range(4):
                optimizer.zero_grad()
                if len(meshes) == 1:
                    loss_of(parts, step, torch.float64).backward()
                else:
                    loss_of(parts, step, torch.float64, mesh["data"].get_local_rank(), 2).backward()
                optimizer.step()
            assert_equal(parts, alone, 1e-13, (make, way))


@pytest.mark.parametrize("meshes", [(2,), (2, 2)], ids=["alone", "with FSDP"])
def test_tensor_parallelism_trains_as_one_rank_does(meshes):
    launch(check_tensor_parallel, math.prod(meshes), meshes)
