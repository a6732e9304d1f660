"""Virtual gradients on two problems small enough to follow (SVGD, Figure 1, and the example of its program)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

import varigrad
from varigrad.lab.papers.svgd import HILBERT_RIGHT_SIDE, HILBERT_SIZE
from varigrad.lab.reproduce import verdict
from varigrad.lab.reproduce.findings import Curve, Row
from varigrad.lab.tasks.problems import hilbert_model, outer

_STEPS, _LOGGED = 100, 95
# The last line of the authors' logs.
_LOGS = {"gradient descent": 4.8734997e-3, "Adagrad": 2.9661767e-3, "SVGD": 6.819805e-4}


def composite(scale: str, report: Callable[[str], None]) -> tuple[list[Row], list[Curve]]:
    """How far a step in θ (Eq. 6) leads from the step in σ (Eq. 5) that it stands for: O(α²) (Eq. 7).

    J = F(f(θ)), F(σ) = (σ+1) σ (σ-1)², f(θ) = θ + sin(50 θ)/20, T the identity.
    """
    theta = torch.linspace(-1.5, 1.5, 3001, dtype=torch.float64)
    sigma, slope = _inner(theta), 1 + 2.5 * torch.cos(50 * theta)
    downhill = _derivative(sigma)
    rates = [2.0**-k for k in range(6, 21)]
    gaps = []
    for rate in rates:
        by_sigma = sigma - rate * slope**2 * downhill
        by_theta = _inner(theta - rate * slope * downhill)
        gaps.append((by_sigma - by_theta).abs().max().item())
    order = math.log2(gaps[-2] / gaps[-1])
    # f'' is at most 125: the second-order remainder of f.
    bound = (0.5 * 125 * (slope * downhill) ** 2).max().item()
    held = all(gap <= bound * rate**2 * (1 + 1e-6) for gap, rate in zip(gaps, rates, strict=True))
    rows = [
        Row("order of ‖σ(t+1) - f(θ(t+1))‖ in α", 2.0, order, None, None, verdict.of_value(2.0, order, 0.01)),
        Row(
            "it is at most ½ max|f''| (f' F')² α², at every α and θ",
            None,
            max(gap / (bound * rate**2) for gap, rate in zip(gaps, rates, strict=True)),
            None,
            None,
            verdict.REPRODUCED if held else verdict.NOT_REPRODUCED,
        ),
    ]
    x = tuple(theta[::6].tolist())
    curves = [
        Curve("functions", "F(σ)", x, tuple(outer(theta[::6]).tolist())),
        Curve("functions", "F(f(θ))", x, tuple(outer(sigma[::6]).tolist())),
        Curve("step", "largest distance", tuple(rates), tuple(gaps)),
    ]
    return rows, curves


def _inner(theta: torch.Tensor) -> torch.Tensor:
    return theta + torch.sin(50 * theta) / 20


def _derivative(sigma: torch.Tensor) -> torch.Tensor:
    return (sigma - 1) * (4 * sigma**2 + sigma - 1)


def hilbert(scale: str, report: Callable[[str], None]) -> tuple[list[Row], list[Curve]]:
    """‖Hx - b‖² with the 10x10 Hilbert matrix: gradient descent, Adagrad and SVGD, each at a rate of 0.01."""
    rows: list[Row] = []
    curves: list[Curve] = []
    closed = _closed_form(_LOGGED)
    for name, logged in _LOGS.items():
        report(name)
        losses = _descend(name)
        tolerance = 5e-4 if name != "SVGD" else 0.1
        rows.append(
            Row(
                f"{name}: loss after {_LOGGED} steps, authors' log",
                logged,
                losses[_LOGGED],
                None,
                None,
                verdict.of_value(logged, losses[_LOGGED], tolerance),
                "r updated before it is used, as in the paper: the program leaves the order open" if name == "SVGD" else "",
            )
        )
        curves.append(Curve("", name, tuple(map(float, range(_STEPS))), tuple(losses)))
    value = curves[0].y[_LOGGED]
    rows.append(
        Row("gradient descent: the same, closed form", closed, value, None, None, verdict.of_value(closed, value, 1e-3))
    )
    return rows, curves


def _matrix() -> torch.Tensor:
    index = torch.arange(HILBERT_SIZE, dtype=torch.float64)
    return 1 / (index[:, None] + index + 1)


def _descend(name: str) -> list[float]:
    rows, model = _matrix().float(), hilbert_model()
    target = torch.full((HILBERT_SIZE, 1), HILBERT_RIGHT_SIDE)
    optimizer: torch.optim.Optimizer
    if name == "SVGD":
        # A row of H is a sample; the loss is a sum over the rows, so the gradients are the samples' own.
        optimizer = varigrad.SVGD(model, lr=1e-2, scale=1.0, loss_reduction="sum")
    elif name == "Adagrad":
        optimizer = torch.optim.Adagrad(model.parameters(), lr=1e-2, initial_accumulator_value=0.1, eps=0.0)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(_STEPS):
        loss = nn.functional.mse_loss(model(rows), target, reduction="sum")
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


def _closed_form(steps: int) -> float:
    """‖(I - 2αHHᵀ)^t b‖²: the residual of gradient descent from x = 0."""
    eigenvalues, vectors = torch.linalg.eigh(_matrix())
    shrunk = (1 - 2e-2 * eigenvalues**2) ** steps * (vectors.T @ torch.full((HILBERT_SIZE,), HILBERT_RIGHT_SIDE).double())
    return shrunk.square().sum().item()
