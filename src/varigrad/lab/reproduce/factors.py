"""Variance adaptation of Gaussian gradients ("Dissecting Adam", Figures 3, 4 and 6)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from varigrad.lab.reproduce import verdict
from varigrad.lab.reproduce.findings import Curve, Row
from varigrad.theory import (
    adam_adaptation_factor,
    sign_adaptation_factor,
    sign_success_probability,
    svag_adaptation_factor,
)

_DRAWS = {"full": 10_000_000, "tenth": 1_000_000, "smoke": 10_000}


def _normal(count: int, draws: torch.Generator) -> torch.Tensor:
    return torch.randn(count, generator=draws, dtype=torch.float64)


def _estimate(label: str, expected: float, values: torch.Tensor) -> Row:
    mean, error = values.mean().item(), values.std().item() / len(values) ** 0.5
    judged = verdict.of_estimate(expected, mean, error)
    return Row(label, expected, mean, mean - 1.96 * error, mean + 1.96 * error, judged)


def adaptation_factors(scale: str, report: Callable[[str], None]) -> tuple[list[Row], list[Curve]]:
    """The three factors over the relative noise, the two that are best measured as what they minimise."""
    draws = torch.Generator().manual_seed(0)
    noise = torch.linspace(0.01, 5, 500, dtype=torch.float64)
    factors = {
        "erf[(√2 η)⁻¹]": sign_adaptation_factor(noise),
        "(1 + η²)^-½": adam_adaptation_factor(noise),
        "(1 + η²)⁻¹": svag_adaptation_factor(noise),
    }
    curves = [Curve("", label, tuple(noise.tolist()), tuple(values.tolist())) for label, values in factors.items()]
    rows = []
    for eta in (0.5, 1.0, 2.0, 4.0):
        report(f"η = {eta:g}")
        gradients = 1 + eta * _normal(_DRAWS[scale], draws)
        rows.append(_estimate(f"η = {eta:g}: best factor on the sign", sign_adaptation_factor(eta), gradients.sign()))
        # E[g]²/E[g²] with E[g] = 1 known: its inverse is a mean.
        rows.append(
            _estimate(
                f"η = {eta:g}: inverse of the best factor on the gradient",
                1 / svag_adaptation_factor(eta),
                gradients**2,
            )
        )
    gap = (factors["(1 + η²)^-½"] - factors["erf[(√2 η)⁻¹]"]).abs()
    at = noise[gap.argmax()].item()
    rows.append(
        Row(
            "Adam's factor is close to the best one: largest difference",
            None,
            gap.max().item(),
            None,
            None,
            verdict.REPRODUCED if gap.max() < 0.1 else verdict.NOT_REPRODUCED,
            f"at η = {at:.1f}",
        )
    )
    return rows, curves


def adapted_gradients(scale: str, report: Callable[[str], None]) -> tuple[list[Row], list[Curve]]:
    """The gradient (2, 1) with noise (1, 1.5): relative variances 0.25 and 2.25, and what the factors do."""
    draws = torch.Generator().manual_seed(0)
    rows: list[Row] = []
    curves: list[Curve] = []
    clouds, scaled = [], []
    for name, mean, std, relative in (("first", 2.0, 1.0, 0.25), ("second", 1.0, 1.5, 2.25)):
        report(name)
        rows.append(
            Row(
                f"{name} coordinate: relative variance",
                relative,
                (std / mean) ** 2,
                None,
                None,
                verdict.of_value(relative, (std / mean) ** 2, 1e-12),
            )
        )
        factor = svag_adaptation_factor(std / mean)
        gradients = mean + std * _normal(_DRAWS[scale], draws)
        rows += [
            _estimate(f"{name} coordinate: adapted mean", factor * mean, factor * gradients),
            _estimate(
                f"{name} coordinate: squared distance to the true gradient",
                mean**2 * std**2 / (mean**2 + std**2),
                (factor * gradients - mean) ** 2,
            ),
            Row(
                f"{name} coordinate: the distance is below that of the gradient itself",
                None,
                1 - 1 / (1 + relative),
                None,
                None,
                verdict.REPRODUCED if ((factor * gradients - mean) ** 2).mean() < std**2 else verdict.NOT_REPRODUCED,
            ),
        ]
        clouds.append(tuple(gradients[:100].tolist()))
        scaled.append(tuple((factor * gradients[:100]).tolist()))
    for panel, (x, y) in (("gradients", clouds), ("adapted", scaled)):
        curves.append(Curve(panel, "drawn", x, y, dots=True))
    return rows, curves


def sign_probabilities(scale: str, report: Callable[[str], None]) -> tuple[list[Row], list[Curve]]:
    """How often a Gaussian of mean 1 and variance 0.5, 1 or 4 is negative (Lemma 4)."""
    draws = torch.Generator().manual_seed(0)
    x = torch.linspace(-5, 7, 241, dtype=torch.float64)
    rows: list[Row] = []
    curves: list[Curve] = []
    for variance in (0.5, 1.0, 4.0):
        report(f"σ² = {variance:g}")
        std = variance**0.5
        wrong = (1 + std * _normal(_DRAWS[scale], draws) < 0).double()
        rows.append(_estimate(f"σ² = {variance:g}: wrong sign", 1 - sign_success_probability(1.0, std), wrong))
        density = torch.exp(-((x - 1) ** 2) / (2 * variance)) / (2 * torch.pi * variance) ** 0.5
        curves.append(Curve("density", f"σ² = {variance:g}", tuple(x.tolist()), tuple(density.tolist())))
    return rows, curves
