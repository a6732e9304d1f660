"""On parameters that are cut into parts, noise scale and monitor find what they find on whole ones."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import varigrad
from varigrad.record import NoiseRecord
from varigrad.writers import Writer

from .processes import launch


class Kept(Writer):
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[NoiseRecord] = []

    def write(self, record: NoiseRecord) -> None:
        self.records.append(record)


class Pair(nn.Module):
    def __init__(self, first: torch.Tensor, second: torch.Tensor) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(first), nn.Parameter(second)


def figures(sharded: bool) -> tuple[list[Any], tuple[float, ...], int]:
    """What a run of four steps amounts to: the last look's figures, the noise scale, and how many looks are written."""
    mesh = init_device_mesh("cpu", (2,)) if sharded else None

    def cut(tensor: torch.Tensor, placement: Any) -> torch.Tensor:
        return tensor if mesh is None else distribute_tensor(tensor, mesh, [placement])

    generator = torch.Generator().manual_seed(0)
    model = Pair(cut(torch.ones(5, 3), Shard(0)), cut(torch.ones(4), Replicate()))
    optimizer = varigrad.VSGD(model.parameters(), lr=0.01)
    kept = Kept()
    with varigrad.NoiseMonitor(optimizer, model, 2, writers=[kept]) as monitor:
        for _ in range(4):
            model.first.grad = cut(torch.randn(5, 3, generator=generator) + 1, Shard(0))
            model.second.grad = cut(torch.randn(4, generator=generator) + 1, Replicate())
            optimizer.step()
    scale = varigrad.noise_scale(optimizer, 8)
    assert monitor.latest is not None
    rows = [value for row in monitor.latest.layers.values() for value in row.values()]
    return rows, (float(scale), scale.signal, scale.noise), len(kept.records)


def check() -> tuple[list[Any], tuple[float, ...], int]:
    return figures(sharded=True)


def test_parts_are_added_up_and_the_first_process_writes() -> None:
    rows, scale, looks = figures(sharded=False)
    for rank, (found, found_scale, written) in enumerate(launch(check, 2)):
        assert found == pytest.approx(rows, rel=1e-4)
        assert found_scale == pytest.approx(scale, rel=1e-4)
        assert written == (looks if rank == 0 else 0)
    assert all(map(math.isfinite, rows))
