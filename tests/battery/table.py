"""One row per optimizer: whatever is in this table passes the whole battery."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

import varigrad
from tests import reference

WAYS: dict[str, dict[str, Any]] = {
    "loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "capturable-loop": {"foreach": False, "capturable": True},
    "capturable-foreach": {"foreach": True, "capturable": True},
}

INFINITE = (float("nan"), float("inf"))


@dataclass(frozen=True)
class Row:
    """What the battery needs to know of an optimizer.

    `settings` are hyperparameters that the mathematics is checked with, the defaults first; `bad` are hyperparameters
    that must be refused, with a value each; `signs` says that the step is a sign, so that where the moment is within
    rounding of zero the other sign is as right.
    """

    name: str
    optimizer: type[torch.optim.Optimizer]
    transcription: Callable[..., Any]
    settings: tuple[dict[str, Any], ...] = ({},)
    bad: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    signs: bool = False


UNBOUNDED = (-1e-9, *INFINITE)
POSITIVE = (0.0, *UNBOUNDED)
KAPPAS = ((0.5, 0.9), (0.81, 1.01), (0.81, float("nan")), (0.9,), (0.7, 0.8, 0.9))

ROWS = (
    Row(
        "VSGD",
        varigrad.VSGD,
        reference.vsgd,
        (
            {},
            {"shape_offset": 0.0, "eps": 0.0},
            {"kappas": (0.6, 0.95), "variance_ratio": 3.0, "prior_strength": 1e-3},
            {"kappas": (1.0, 1.0), "prior_strength": 1e-7},
        ),
        {
            "kappas": KAPPAS,
            "prior_strength": POSITIVE,
            "variance_ratio": POSITIVE,
            "shape_offset": UNBOUNDED,
            "eps": UNBOUNDED,
        },
    ),
    Row(
        "ConstantVSGD",
        varigrad.ConstantVSGD,
        reference.constant_vsgd,
        (
            {},
            {"shape_offset": 0.0, "eps": 0.0},
            {"kappa": 0.6, "variance_ratio": 9.0, "prior_strength": 1e-3},
            {"kappa": 1.0, "variance_ratio": 0.5},
        ),
        {
            "kappa": (0.5, 1.01, *INFINITE),
            "prior_strength": POSITIVE,
            "variance_ratio": POSITIVE,
            "shape_offset": UNBOUNDED,
            "eps": UNBOUNDED,
        },
    ),
)

every_optimizer = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
every_way = pytest.mark.parametrize("way", WAYS)


def displacements(
    row: Row,
    gradients: list[list[np.ndarray | None]],
    lr: float | list[float],
    dtype: torch.dtype,
    theta: np.ndarray | None = None,
    **arguments: Any,
) -> list[np.ndarray]:
    """Steps one optimizer on recorded gradients, a list per parameter; returns each parameter's way from its start.

    Shape (T + 1, *theta.shape), float64. The start is zero unless given, because in float32 a weight of size one has
    no digits left for its displacement.
    """
    shape = next(g.shape for g in gradients[0] if g is not None)
    start = np.zeros(shape) if theta is None else theta
    params = [torch.tensor(start, dtype=dtype, requires_grad=True) for _ in gradients]
    rates = [lr] * len(gradients[0]) if isinstance(lr, float) else lr
    optimizer = row.optimizer(params, lr=rates[0], **arguments)
    trails = [[p.detach().double().numpy().copy()] for p in params]
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        for param, column in zip(params, gradients, strict=True):
            gradient = column[step]
            param.grad = None if gradient is None else torch.tensor(gradient, dtype=dtype)
        optimizer.step()
        for param, trail in zip(params, trails, strict=True):
            trail.append(param.detach().double().numpy().copy())
    return [np.stack(trail) - start for trail in trails]
