"""Scores of tuned optimizers: the time to a target, performance profiles, and ratios to AdamW."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from varigrad.lab.tuning.tune import Tuned, Tuning

MEASURES = ("steps", "seconds")
BASELINE = "adamw"
RESAMPLES = 10_000
_Array = NDArray[np.float64]


def times(tuned: Tuned, target: float, measure: str) -> _Array:
    """Time to the target, one for each seed; infinite where it was never reached, as it is where a run diverged.

    Args:
        tuned: The optimizer.
        target: Test accuracy to be reached.
        measure: `"steps"`, or `"seconds"` of training.
    """
    reached = [run.steps_to(target) if measure == "steps" else run.seconds_to(target) for run in tuned.runs]
    return np.array([math.inf if time is None else time for time in reached], dtype=np.float64)


def profile(tunings: Sequence[Tuning], measure: str) -> dict[str, tuple[list[float], list[float]]]:
    """The performance profile of every optimizer (Dolan and Moré 2002, Eq. 2.1).

    Its value at τ is the share of the problems on which the optimizer took at most τ times as long as the fastest
    there. A problem is a task with a seed; tasks count equally. What never reached the target is never in.

    Returns:
        For every optimizer the τ at which its profile steps up, from 1, and the shares from there on.
    """
    names = _common(tunings)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    weights: list[float] = []
    for tuning in tunings:
        table = np.stack([times(tuned, tuning.target, measure) for tuned in tuning.tuned if tuned.row.name in names])
        fastest = table.min(axis=0)
        solved = np.where(np.isfinite(table), table, 0.0) / np.where(np.isfinite(fastest), fastest, 1.0)
        relative = np.where(np.isfinite(table), solved, math.inf)
        own = [tuned.row.name for tuned in tuning.tuned if tuned.row.name in names]
        for name, row in zip(own, relative, strict=True):
            ratios[name] += row.tolist()
        weights += [1 / len(tuning.seeds) / len(tunings)] * len(tuning.seeds)
    profiles = {}
    for name, values in ratios.items():
        steps = sorted({1.0, *(value for value in values if math.isfinite(value))})
        shares = [
            math.fsum(weight for value, weight in zip(values, weights, strict=True) if value <= step) for step in steps
        ]
        profiles[name] = (steps, shares)
    return profiles


@dataclass(frozen=True)
class Ratio:
    """How long an optimizer takes, as a multiple of what tuned AdamW takes.

    Attributes:
        mean: Geometric mean over the tasks of the ratio of medians over the seeds; infinite where it never got there.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def ratio(tunings: Sequence[Tuning], name: str, measure: str, baseline: str = BASELINE) -> Ratio | None:
    """The ratio of an optimizer's time to target to AdamW's; None where AdamW was not tuned.

    The interval is the percentile interval of a paired bootstrap: seeds are drawn with replacement, the same for
    both optimizers, 10,000 times for every task. Where neither reaches the target the ratio counts as 1.

    Args:
        tunings: The tasks.
        name: The optimizer.
        measure: `"steps"` or `"seconds"`.
        baseline: What it is compared with.
    """
    if not {name, baseline} <= set(_common(tunings)):
        return None
    generator = np.random.default_rng(0)
    logs, resampled = [], []
    for tuning in tunings:
        by_name = {tuned.row.name: times(tuned, tuning.target, measure) for tuned in tuning.tuned}
        draws = generator.integers(len(tuning.seeds), size=(RESAMPLES, len(tuning.seeds)))
        logs.append(_log_ratio(np.median(by_name[name]), np.median(by_name[baseline])))
        resampled.append(
            _log_ratio(np.median(by_name[name][draws], axis=1), np.median(by_name[baseline][draws], axis=1))
        )
    with np.errstate(invalid="ignore"):
        mean = float(np.exp(np.mean(logs)))  # infinite with one task and never with another: undefined
        low, high = np.quantile(np.exp(np.mean(resampled, axis=0)), [0.025, 0.975], method="inverted_cdf")
    return Ratio(mean, float(low), float(high))


def _log_ratio(ours: _Array | np.float64, theirs: _Array | np.float64) -> _Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(ours) - np.log(theirs)
    return np.where(np.isinf(ours) & np.isinf(theirs), 0.0, logs)


def best_of(tuned: Tuned, budget: int) -> float:
    """What a smaller budget would have found: the median over all choices of that many trials of the lowest loss.

    Args:
        tuned: The optimizer.
        budget: How many trials, from 1 to as many as there were.

    Returns:
        Final validation loss; infinite where the median choice has nothing but divergence.
    """
    losses = sorted(trial.run.final.validation_loss for trial in tuned.trials)
    count, below = len(losses), 0.0
    for index, loss in enumerate(losses):
        below += math.comb(count - 1 - index, budget - 1) / math.comb(count, budget)  # it is the lowest of those chosen
        if below >= 0.5 - 1e-12:
            return loss
    raise AssertionError("the chances add up to one")


def _common(tunings: Sequence[Tuning]) -> list[str]:
    """The optimizers tuned on every task, in the order of the first."""
    names = [[tuned.row.name for tuned in tuning.tuned] for tuning in tunings]
    return [name for name in names[0] if all(name in others for others in names)]
