"""Virtual gradients on two problems small enough to follow (SVGD, Figure 1, and the example of its program)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

import varigrad
from varigrad.lab.papers.svgd import HILBERT_RIGHT_SIDE, HILBERT_SIZE
from varigrad.lab.reproduce import verdict
from varigrad.lab.reproduce.findings import Curve, Row
from varigrad.lab.tasks.problems import hilbert_model, outer

_STEPS, _LOGGED, _RATE = 100, 95, 1e-2
_SETTLED = 30  # steps after which rounding decides how the program's virtual gradients jump about
_STARTS = 20
_ALGORITHM_1 = "virtual gradients, Algorithm 1 with s = 1"
_PROGRAM = "virtual gradients, the program's"
# Lines of the authors' logs.
_LOGS = {
    "gradient descent": {_LOGGED: 4.8734997e-3},
    "Adagrad": {_LOGGED: 2.9661767e-3},
    _PROGRAM: {20: 1.3971205e-3, _SETTLED: 1.2425015e-3},
    _ALGORITHM_1: {},
}
_JUMPED = 6.819805e-4


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
    """‖Hx - b‖² with the 10x10 Hilbert matrix, each method at a rate of 0.01, from x = 0.

    The program's virtual gradient has no running mean here: T g = g/√(g² + 1e-6), element by element. Its steps do not
    become shorter, and after some thirty of them rounding decides where they lead: what it logs then is compared with
    runs from starting points 1e-7 apart. Algorithm 1, with the mean over the rows, stands beside it.
    """
    rows: list[Row] = []
    curves: list[Curve] = []
    for name, logged in _LOGS.items():
        report(name)
        losses = _descend(name, 0.0, 0)
        for step, expected in logged.items():
            label = f"{name}: loss after {step} steps, authors' log"
            judged = verdict.of_value(expected, losses[step], 5e-4)
            rows.append(Row(label, expected, losses[step], None, None, judged))
        curves.append(Curve("", name, tuple(map(float, range(_STEPS))), tuple(losses)))
    jumped = [_descend(_PROGRAM, 1e-7, seed)[_LOGGED] for seed in range(_STARTS)]
    interval, judged = verdict.Interval.of(jumped), verdict.of_number(_JUMPED, jumped)
    label = f"{_PROGRAM}: loss after {_LOGGED} steps, authors' log"
    detail = f"{_STARTS} starting points, rounding decides"
    rows.append(Row(label, _JUMPED, interval.mean, interval.low, interval.high, judged, detail))
    closed, ours = _closed_form(_LOGGED), curves[0].y[_LOGGED]
    judged = verdict.of_value(closed, ours, 1e-3)
    rows.append(Row("gradient descent: the same, closed form", closed, ours, None, None, judged))
    return rows, curves


def _matrix() -> torch.Tensor:
    index = torch.arange(HILBERT_SIZE, dtype=torch.float64)
    return 1 / (index[:, None] + index + 1)


def _descend(name: str, away: float, seed: int) -> list[float]:
    matrix, model = _matrix().float(), hilbert_model()
    model.weight.data += away * torch.randn(HILBERT_SIZE, generator=torch.Generator().manual_seed(seed))
    target = torch.full((HILBERT_SIZE, 1), HILBERT_RIGHT_SIDE)
    optimizer: torch.optim.Optimizer
    if name == _ALGORITHM_1:
        # A row of H is a sample; the loss is a sum over the rows, so the gradients are the samples' own.
        optimizer = varigrad.SVGD(model, lr=_RATE, scale=1.0, loss_reduction="sum")
    elif name == "Adagrad":
        optimizer = torch.optim.Adagrad(model.parameters(), lr=_RATE, initial_accumulator_value=0.1, eps=0.0)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=_RATE)
    losses = []
    for _ in range(_STEPS):
        output = model(matrix)
        loss = (output - target).square().sum()
        losses.append(loss.item())
        optimizer.zero_grad()
        if name == _PROGRAM:
            arriving = 2 * (output - target).detach()
            output.backward(arriving * (arriving.square() + 1e-6).rsqrt())
        else:
            loss.backward()
        optimizer.step()
    return losses


def _closed_form(steps: int) -> float:
    """‖(I - 2αHHᵀ)^t b‖²: the residual of gradient descent from x = 0."""
    eigenvalues, vectors = torch.linalg.eigh(_matrix())
    shrunk = (1 - 2 * _RATE * eigenvalues**2) ** steps * (
        vectors.T @ torch.full((HILBERT_SIZE,), HILBERT_RIGHT_SIDE).double()
    )
    return float(shrunk.square().sum())
