"""One row per optimizer: whatever is in this table passes the whole battery."""

from __future__ import annotations

import functools
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


@dataclass(frozen=True, eq=False)
class Row:
    """What the battery needs to know of an optimizer.

    `settings` are hyperparameters that the mathematics is checked with, the defaults first; `bad` are hyperparameters
    that must be refused, with a value each.
    """

    name: str
    optimizer: type[torch.optim.Optimizer]
    transcription: Callable[..., Any]
    settings: tuple[dict[str, Any], ...] = ({},)
    bad: dict[str, tuple[Any, ...]] = field(default_factory=dict)


UNBOUNDED = (-1e-9, *INFINITE)
POSITIVE = (0.0, *UNBOUNDED)
KAPPAS = ((0.5, 0.9), (0.81, 1.01), (0.81, float("nan")), (0.9,), (0.7, 0.8, 0.9))
BETA = (-0.1, 1.0, *INFINITE)
BETAS = ((1.0, 0.9), (0.9, -0.1), (0.9, float("nan")), (0.9,), (0.7, 0.8, 0.9))
AVERAGES: tuple[dict[str, Any], ...] = ({}, {"beta": 0.5}, {"beta": 0.99}, {"beta": 0.0})

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
    Row("AdaptiveVSGD", varigrad.AdaptiveVSGD, reference.adaptive_vsgd, ({}, {"nesterov": True})),
    Row("AdaptiveMuon", varigrad.AdaptiveMuon, reference.adaptive_muon, ({}, {"nesterov": False}, {"matrices": False})),
    Row(
        "AdaBayes",
        varigrad.AdaBayes,
        reference.adabayes,
        (
            {},
            {"batch_size": 128, "beta": 0.8},
            {"transition": "euler", "batch_size": 128, "sgd_lr": 0.5},
            {"sgd_lr": 1e-3, "batch_size": 64},
        ),
        {"sgd_lr": POSITIVE, "batch_size": (0, 0.5, *INFINITE), "beta": BETA},
    ),
    Row(
        "AdaBayesFP",
        varigrad.AdaBayesFP,
        reference.adabayes_fp,
        ({}, {"batch_size": 128, "eps": 1e-2, "betas": (0.8, 0.99)}, {"sgd_lr": 1e-4}, {"sgd_lr": 1e4}),
        {"sgd_lr": POSITIVE, "batch_size": (0, 0.5, *INFINITE), "betas": BETAS, "eps": UNBOUNDED},
    ),
    Row("SVAG", varigrad.SVAG, reference.svag, AVERAGES, {"beta": BETA}),
    Row("MSVAG", varigrad.MSVAG, reference.msvag, AVERAGES, {"beta": BETA}),
    Row(
        "AdamStar",
        varigrad.AdamStar,
        reference.adam_star,
        (*AVERAGES, {"momentum": False}),
        {"beta": BETA},
    ),
    Row("MSGD", varigrad.MSGD, reference.msgd, AVERAGES, {"beta": BETA}),
    Row("SSD", varigrad.SSD, reference.ssd),
    Row("MSSD", varigrad.MSSD, reference.mssd, AVERAGES, {"beta": BETA}),
)


@functools.cache
def exact(
    row: Row, number: int, theta: bytes, gradients: tuple[bytes | None, ...], lr: Any, decay: float
) -> np.ndarray:
    """The way from the start by the transcription, with setting `number`; computed once for all ways."""
    start = np.frombuffer(theta)
    columns = [None if g is None else np.frombuffer(g) for g in gradients]
    rates = lr if isinstance(lr, float) else list(lr)
    trail = row.transcription(start, columns, rates, weight_decay=decay, **row.settings[number])
    return trail - start


every_optimizer = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
every_way = pytest.mark.parametrize("way", WAYS)


def displacements(
    row: Row,
    gradients: list[list[np.ndarray | None]],
    lr: float | list[float],
    dtype: torch.dtype,
    theta: np.ndarray | None = None,
    device: str = "cpu",
    **arguments: Any,
) -> list[np.ndarray]:
    """Steps one optimizer on recorded gradients, a list per parameter; returns each parameter's way from its start.

    Shape (T + 1, *theta.shape), float64. The start is zero unless given, because in float32 a weight of size one has
    no digits left for its displacement.
    """
    shape = next(g.shape for g in gradients[0] if g is not None)
    start = np.zeros(shape) if theta is None else theta
    params = [torch.tensor(start, dtype=dtype, device=device, requires_grad=True) for _ in gradients]
    rates = [lr] * len(gradients[0]) if isinstance(lr, float) else lr
    optimizer = row.optimizer(params, lr=rates[0], **arguments)
    trails = [[_read(p)] for p in params]
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        for param, column in zip(params, gradients, strict=True):
            gradient = column[step]
            param.grad = None if gradient is None else torch.tensor(gradient, dtype=dtype, device=device)
        optimizer.step()
        for param, trail in zip(params, trails, strict=True):
            trail.append(_read(param))
    return [np.stack(trail) - start for trail in trails]


def _read(param: torch.Tensor) -> np.ndarray:
    return param.detach().double().cpu().numpy().copy()
