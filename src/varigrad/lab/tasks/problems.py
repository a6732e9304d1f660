"""The papers' problems without a network."""

from __future__ import annotations

import functools
import math

import torch
from torch import nn

from varigrad.lab.kinds.problems import Function, LeastSquares, Made, Quadratic
from varigrad.lab.models.point import Point
from varigrad.lab.papers import dissecting_adam, svgd
from varigrad.lab.tasks.task import Task
from varigrad.theory import (
    StochasticQuadratic,
    ill_conditioned_spectrum,
    mildly_conditioned_spectrum,
    random_rotation,
)

_SPECTRA = {"mild": mildly_conditioned_spectrum, "ill": ill_conditioned_spectrum}


@functools.cache
def stochastic_quadratic(spectrum: str, rotated: bool, noise: float) -> StochasticQuadratic:
    """One of the twelve problems of "Dissecting Adam", Figure 2; the same spectra and rotation for all noise levels.

    Args:
        spectrum: `"mild"` or `"ill"`.
        rotated: Whether its axes are turned at random.
        noise: ν.
    """
    draws = torch.Generator().manual_seed(0)
    eigenvalues = _SPECTRA[spectrum](dissecting_adam.DIMENSION, draws)
    rotation = random_rotation(dissecting_adam.DIMENSION, draws) if rotated else None
    return StochasticQuadratic.from_spectrum(eigenvalues, noise, rotation)


def _quadratic(spectrum: str, rotated: bool, noise: float) -> Task:
    axes = "rotated" if rotated else "aligned"
    conditioned = "well" if spectrum == "mild" else "ill"
    return Task(
        f"sqp-{spectrum}-{axes}-{noise:g}",
        f"stochastic quadratic problem, {conditioned} conditioned, {axes}, noise {noise:g}",
        Made(),
        functools.partial(Point, functools.partial(torch.randn, dissecting_adam.DIMENSION)),
        batch_size=1,
        steps=500,
        seeds=5,
        target=0.99,
        threads=1,
        kind=Quadratic(stochastic_quadratic(spectrum, rotated, noise)),
    )


def hilbert_model() -> nn.Linear:
    """The line h ↦ hᵀ x, from x = 0."""
    line = nn.Linear(svgd.HILBERT_SIZE, 1, bias=False)
    nn.init.zeros_(line.weight)
    return line


def rippled(theta: torch.Tensor) -> torch.Tensor:
    """F(f(θ)) of SVGD's Figure 1: F(σ) = (σ+1) σ (σ-1)², f(θ) = θ + sin(50 θ)/20."""
    return outer(theta + torch.sin(50 * theta) / 20)


def outer(sigma: torch.Tensor) -> torch.Tensor:
    """F(σ) = (σ+1) σ (σ-1)²."""
    return (sigma + 1) * sigma * (sigma - 1) ** 2


def _start() -> torch.Tensor:
    return 3 * torch.rand(1) - 1.5


_LOWEST = outer(torch.tensor(-(1 + math.sqrt(17)) / 8, dtype=torch.float64)).item()  # where F' is 0, on the left
_SIZE = svgd.HILBERT_SIZE
TASKS = (
    *(
        _quadratic(spectrum, rotated, noise)
        for spectrum in _SPECTRA
        for rotated in (False, True)
        for noise in dissecting_adam.NOISE_LEVELS
    ),
    Task(
        "hilbert",
        "least squares with the 10x10 Hilbert matrix",
        Made(),
        hilbert_model,
        batch_size=_SIZE,
        steps=100,
        seeds=1,
        target=0.9,
        evaluations=20,
        threads=1,
        kind=LeastSquares(
            tuple(tuple(1 / (i + j + 1) for i in range(_SIZE)) for j in range(_SIZE)), svgd.HILBERT_RIGHT_SIDE
        ),
    ),
    Task(
        "ripples",
        "a function of one parameter with ripples on it",
        Made(),
        functools.partial(Point, _start),
        batch_size=1,
        steps=200,
        seeds=10,
        target=0.99,
        threads=1,
        kind=Function(rippled, lowest=_LOWEST),
    ),
)
