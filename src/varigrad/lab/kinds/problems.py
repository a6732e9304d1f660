"""Functions of a few parameters, some of them with noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from varigrad.lab.batches import generator
from varigrad.lab.models.point import Point
from varigrad.theory import StochasticQuadratic

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Made:
    """Data that is made and not loaded: none at all."""

    device: torch.device = _CPU

    def to(self, device: torch.device) -> Made:
        """The same for another device."""
        return Made(device)

    def whole(self) -> Made:
        """Nothing is held out."""
        return self

    def glance(self, count: int) -> Made:
        """There is nothing to leave out."""
        return self

    def load(self, folder: Path | None) -> Made:
        """Itself."""
        return self

    def whereabouts(self, folder: Path | None) -> str:
        """There is none."""
        return "none needed"


class Draws:
    """Standard normal draws, one batch for every step."""

    def __init__(self, shape: tuple[int, int], seed: int, device: torch.device) -> None:
        self._shape = shape
        self._seed = seed
        self._device = device

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        draws = torch.randn(self._shape, generator=generator(self._seed, "noise", step), dtype=torch.float64)
        draws = draws.float().to(self._device)
        return draws, draws


@dataclass(frozen=True)
class Quadratic:
    """A stochastic quadratic problem; the accuracy is the share of the starting point's excess loss that is gone.

    Attributes:
        problem: Makes the problem; made once.
    """

    problem: StochasticQuadratic

    def batches(self, data: Made, batch_size: int, seed: int, pad: int) -> Draws:
        """The data x of Eq. 11, over ν."""
        return Draws((batch_size, self.problem.dimension), seed, data.device)

    def loss(self, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean of ½ (θ-x)ᵀ Q (θ-x)."""
        away = model() - self.problem.noise * inputs
        loss: torch.Tensor = 0.5 * (away @ self._curvature(away) * away).sum(1).mean()
        return loss

    def measure(self, model: nn.Module, data: Made, part: str) -> tuple[float, float]:
        """Excess of the expected loss over its smallest value, ½ θᵀ Q θ."""
        point = cast(Point, model)

        def excess(theta: torch.Tensor) -> float:
            return 0.5 * (theta @ self._curvature(theta) @ theta).item()

        loss = excess(point.theta)
        return loss, min(1.0, max(0.0, 1 - loss / excess(point.start)))

    def _curvature(self, like: torch.Tensor) -> torch.Tensor:
        return self.problem.curvature.to(like)


@dataclass(frozen=True)
class LeastSquares:
    """Σ_i (h_iᵀ x - b)², every step with all rows h_i; the model is the line h ↦ hᵀ x.

    Attributes:
        rows: The matrix of the h_i.
        right_side: b, the same for all rows.
    """

    rows: tuple[tuple[float, ...], ...]
    right_side: float

    def batches(self, data: Made, batch_size: int, seed: int, pad: int) -> Rows:
        """All rows, every time."""
        rows = torch.tensor(self.rows, device=data.device)
        return Rows(rows, torch.full((len(rows), 1), self.right_side, device=data.device))

    def loss(self, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The sum of squares."""
        loss: torch.Tensor = (model(inputs) - targets).square().sum()
        return loss

    def measure(self, model: nn.Module, data: Made, part: str) -> tuple[float, float]:
        """The same, and the share of its value at x = 0 that is gone."""
        rows = torch.tensor(self.rows, device=data.device)
        loss = (model(rows) - self.right_side).square().sum().item()
        return loss, min(1.0, max(0.0, 1 - loss / (len(rows) * self.right_side**2)))


@dataclass(frozen=True)
class Rows:
    """One batch for ever."""

    inputs: torch.Tensor
    targets: torch.Tensor

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inputs, self.targets


@dataclass(frozen=True)
class Function:
    """A function of one parameter without noise.

    Attributes:
        function: The function, element-wise.
        lowest: Its smallest value.
    """

    function: Callable[[torch.Tensor], torch.Tensor]
    lowest: float

    def batches(self, data: Made, batch_size: int, seed: int, pad: int) -> Rows:
        """Nothing is drawn."""
        nothing = torch.empty(0, device=data.device)
        return Rows(nothing, nothing)

    def loss(self, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The function's value."""
        return self.function(model()).sum()

    def measure(self, model: nn.Module, data: Made, part: str) -> tuple[float, float]:
        """The value's excess over the smallest, and the share of the starting point's excess that is gone."""
        point = cast(Point, model)
        loss = self.function(point.theta).sum().item() - self.lowest
        start = self.function(point.start).sum().item() - self.lowest
        return loss, min(1.0, max(0.0, 1 - loss / start))
