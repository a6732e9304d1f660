"""Scores of tuned optimizers: the time to a target, performance profiles, and ratios to AdamW."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from varigrad.lab.training import Evaluation, Run
from varigrad.lab.tuning.tune import Tuned, Tuning

MEASURES = ("steps", "seconds")
BASELINE = "adamw"
RESAMPLES = 10_000
_Array = NDArray[np.float64]


def times(tuned: Tuned, target: float, measure: str) -> _Array:
    """Time to the target, one for each seed; infinite where it was never reached, as it is where a run diverged.

    Where there were several studies, it is the median over them, seed by seed.

    Args:
        tuned: The optimizer.
        target: Test accuracy to be reached.
        measure: `"steps"`, or `"seconds"` of training.
    """
    reached = [
        [run.steps_to(target) if measure == "steps" else run.seconds_to(target) for run in study.runs]
        for study in tuned.studies
    ]
    table = [[math.inf if time is None else time for time in row] for row in reached]
    return np.asarray(np.median(np.array(table, dtype=np.float64), axis=0))


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
    return _interval(logs, resampled)


def shares(tuning: Tuning, tuned: Tuned, baseline: str = BASELINE) -> _Array | None:
    """Steps to the baseline's final validation loss, as a share of what the baseline needed, one for each seed.

    The loss is that of the baseline's run with the same seed, and the time the first evaluation at which a loss is no
    higher; infinite where it never is, 0 where only the baseline diverged, 1 where both did. It asks for no target,
    and means the same for every kind of task. Where there were several studies, it is the median over them. Of a task
    with a `glance` the last evaluation, which alone sees all samples, is left out.

    Args:
        tuning: What was found on a task.
        tuned: The optimizer.
        baseline: What it is compared with.

    Returns:
        None where the baseline was not tuned.
    """
    theirs = next((other for other in tuning.tuned if other.row.name == baseline), None)
    if theirs is None:
        return None
    table = [
        [_share(tuning, own, other) for own, other in zip(ours.runs, base.runs, strict=True)]
        for ours, base in zip(tuned.studies, theirs.studies, strict=True)
    ]
    return np.asarray(np.median(np.array(table, dtype=np.float64), axis=0))


def _share(tuning: Tuning, own: Run, other: Run) -> float:
    def seen(run: Run) -> tuple[Evaluation, ...]:
        return run.evaluations[:-1] if tuning.task.glance is not None and len(run.evaluations) > 1 else run.evaluations

    goal = seen(other)[-1].validation_loss
    if other.diverged:
        return 1.0 if own.diverged else 0.0
    if own.diverged:
        return math.inf
    ours, theirs = (next((e.step for e in seen(run) if e.validation_loss <= goal), math.inf) for run in (own, other))
    return ours / theirs


def share(tunings: Sequence[Tuning], name: str, baseline: str = BASELINE) -> Ratio | None:
    """The geometric mean over the tasks of the medians of `shares`, with the interval of a bootstrap over the seeds.

    Seeds are drawn with replacement, 10,000 times for every task; each brings both runs, so that it is paired.

    Args:
        tunings: The tasks.
        name: The optimizer.
        baseline: What it is compared with; None is returned where it, or the optimizer, was not tuned on all tasks.
    """
    if not {name, baseline} <= set(_common(tunings)):
        return None
    generator = np.random.default_rng(0)
    logs, resampled = [], []
    for tuning in tunings:
        found = shares(tuning, next(tuned for tuned in tuning.tuned if tuned.row.name == name), baseline)
        assert found is not None
        draws = generator.integers(len(found), size=(RESAMPLES, len(found)))
        with np.errstate(divide="ignore"):
            logs.append(np.log(np.median(found)))
            resampled.append(np.log(np.median(found[draws], axis=1)))
    return _interval(logs, resampled)


def _interval(logs: Sequence[np.float64 | _Array], resampled: Sequence[_Array]) -> Ratio:
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
        tuned: The optimizer; the trials of all its studies are chosen from.
        budget: How many trials, from 1 to as many as there were.

    Returns:
        Final validation loss; infinite where the median choice has nothing but divergence.
    """
    losses = sorted(trial.run.final.validation_loss for trial in tuned.all_trials)
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
