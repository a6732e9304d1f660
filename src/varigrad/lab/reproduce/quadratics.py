"""SGD and SSD on the twelve stochastic quadratic problems ("Dissecting Adam", Figure 2)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator

import torch

from varigrad.lab.papers.dissecting_adam import DIMENSION, NOISE_LEVELS
from varigrad.lab.reproduce import verdict
from varigrad.lab.reproduce.findings import Curve, Row
from varigrad.lab.tasks.problems import stochastic_quadratic
from varigrad.theory import (
    ExpectedImprovement,
    StochasticQuadratic,
    sgd_improvement,
    ssd_improvement,
    ssd_improvement_bound,
)

# Steps and repetitions; without noise there is nothing to repeat.
_SIZES = {"full": (100, 5), "tenth": (50, 2), "smoke": (5, 1)}
_EXACT = 1e-9


class Descent:
    """One method on one problem: every step along a drawn direction with the step size best in expectation.

    Attributes:
        losses: Excess of the expected loss before each step, and at the end.
        gained: What each step gained.
        expected: What it was to gain, by the closed form.
    """

    def __init__(self, problem: StochasticQuadratic, signs: bool, steps: int, seed: int) -> None:
        draws = torch.Generator().manual_seed(seed)
        improvement: Callable[[StochasticQuadratic, torch.Tensor], ExpectedImprovement] = (
            ssd_improvement if signs else sgd_improvement
        )
        theta = torch.randn(DIMENSION, generator=draws, dtype=torch.float64)
        floor = problem.loss(torch.zeros_like(theta)).item()
        self.losses = [problem.loss(theta).item() - floor]
        self.expected: list[float] = []
        self.violations = 0
        for _ in range(steps):
            gain = improvement(problem, theta)
            if signs and ssd_improvement_bound(problem, theta).best > gain.best * (1 + _EXACT):
                self.violations += 1
            direction = problem.sample_gradients(theta, 1, draws)[0]
            if signs:
                direction = direction.sign()
            theta = theta - gain.step_size * direction
            self.expected.append(gain.best)
            self.losses.append(problem.loss(theta).item() - floor)
        self.gained = [before - after for before, after in zip(self.losses, self.losses[1:], strict=False)]


def quadratics(scale: str, report: Callable[[str], None]) -> tuple[list[Row], list[Curve]]:
    """Runs all twelve problems and compares what the steps gain with Eq. 12 and 13 and the exact form of Eq. 14."""
    steps, repetitions = _SIZES[scale]
    rows: list[Row] = []
    curves: list[Curve] = []
    leads: dict[tuple[str, bool, float], list[float]] = {}
    for spectrum, rotated, noise in _problems():
        axes = "rotated" if rotated else "aligned"
        name = f"{'well' if spectrum == 'mild' else 'ill'} conditioned, {axes}, ν = {noise:g}"
        report(name)
        problem = stochastic_quadratic(spectrum, rotated, noise)
        seeds = range(repetitions if noise else 1)
        both = {signs: [Descent(problem, signs, steps, seed) for seed in seeds] for signs in (False, True)}
        for signs, descents in both.items():
            method = "SSD" if signs else "SGD"
            rows.append(_gain_row(f"{name}: {method} gains over expected gains", descents, noise > 0))
            losses = torch.tensor([descent.losses for descent in descents]).median(0).values
            curves.append(Curve(name, method, tuple(map(float, range(steps + 1))), tuple(losses.tolist())))
        violations = sum(descent.violations for descent in both[True])
        if violations:
            rows.append(
                Row(f"{name}: Eq. 14 exceeds the exact gain", 0, violations, None, None, verdict.NOT_REPRODUCED)
            )
        leads[spectrum, rotated, noise] = [
            math.log10(sgd.losses[-1] / ssd.losses[-1]) for sgd, ssd in zip(both[False], both[True], strict=True)
        ]
    return [*rows, *_claims(leads)], curves


def _problems() -> Iterator[tuple[str, bool, float]]:
    for spectrum in ("mild", "ill"):
        for rotated in (True, False):
            for noise in NOISE_LEVELS:
                yield spectrum, rotated, noise


def _gain_row(label: str, descents: list[Descent], noisy: bool) -> Row:
    gained = sum(sum(descent.gained) for descent in descents)
    expected = sum(sum(descent.expected) for descent in descents)
    ratio = gained / expected
    if not noisy:
        return Row(label, 1.0, ratio, None, None, verdict.of_value(1.0, ratio, _EXACT), "no noise: exact")
    # Given the point, a step gains what is expected plus noise of mean 0: the sum of the squares is their variance.
    away = [(gain - mean) for descent in descents for gain, mean in zip(descent.gained, descent.expected, strict=True)]
    error = math.sqrt(sum(gap * gap for gap in away)) / expected
    judged = verdict.of_estimate(1.0, ratio, error)
    return Row(label, 1.0, ratio, ratio - 1.96 * error, ratio + 1.96 * error, judged, f"{len(away)} steps")


def _claims(leads: dict[tuple[str, bool, float], list[float]]) -> list[Row]:
    """What the caption says, by the decades by which SSD's excess loss is below SGD's at the end.

    The caption has no numbers: "far" is taken as one decade, "about equal" as less than half, "clearly" as a tenth.
    """

    def lead(spectrum: str, rotated: bool, noise: float) -> float:
        return statistics.fmean(leads[spectrum, rotated, noise])

    def claim(text: str, value: float, holds: bool) -> Row:
        return Row(text, None, value, None, None, verdict.REPRODUCED if holds else verdict.NOT_REPRODUCED, "decades")

    rows = []
    for rotated in (True, False):
        axes = "rotated" if rotated else "aligned"
        still, loud = lead("mild", rotated, 0.0), lead("mild", rotated, 4.0)
        rows += [
            claim(f"well conditioned, {axes}, no noise: SGD is far ahead", -still, still < -1),
            claim(f"well conditioned, {axes}, ν = 4: the difference is evened out", abs(loud), abs(loud) < -still / 3),
        ]
    for noise in NOISE_LEVELS:
        turned, aligned = lead("ill", True, noise), lead("ill", False, noise)
        rows += [
            claim(f"ill conditioned, rotated, ν = {noise:g}: the two are about equal", abs(turned), abs(turned) < 0.5),
            claim(f"ill conditioned, aligned, ν = {noise:g}: SSD is clearly ahead", aligned, aligned > 0.1),
            claim(f"ill conditioned, ν = {noise:g}: SSD gains by aligned axes", aligned - turned, aligned > turned),
        ]
    return rows
