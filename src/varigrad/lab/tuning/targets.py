"""Targets that nobody chose: what well-known optimizers reach when they are tuned four times as long."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from varigrad.lab.engines.jobs import Engine, OnProgress
from varigrad.lab.optimizers import find_optimizer
from varigrad.lab.tasks import Task
from varigrad.lab.training import Settings
from varigrad.lab.tuning.space import axes, halton
from varigrad.lab.tuning.tune import Tuned, tune

REFERENCES = ("sgd", "adam", "adamw")  # sgd is that with momentum
BUDGET = 4  # times as many trials as the optimizers that are compared get
RUNS = 10
_FIRST_SEED = 2000


@dataclasses.dataclass(frozen=True)
class Target:
    """A target, and where it comes from.

    Attributes:
        accuracy: Test accuracy, between 0 and 1.
        origin: A sentence.
    """

    accuracy: float
    origin: str = ""


def by_procedure(
    task: Task,
    trials: int,
    space: Sequence[str],
    study: int,
    seeds: Sequence[int],
    settings: Settings,
    engine: Engine,
    on_progress: OnProgress = lambda progress: None,
    on_tuned: Callable[[Tuned], None] = lambda tuned: None,
    on_plan: Callable[[int], None] = lambda runs: None,
    on_run: Callable[[], None] = lambda: None,
) -> Target:
    """The best of SGD with momentum, Adam and AdamW, each after four times as many trials: the median of ten runs.

    The first quarter of their trials are those they have when they are compared, which the store makes once. The ten
    seeds are none of those the compared are judged by.

    Args:
        task: What to train.
        trials: How many trials the optimizers that are compared get.
        space: The axes of what is tuned.
        study: Which scrambling of the Halton sequence.
        seeds: Those the optimizers are judged by.
        settings: What all runs have in common.
        engine: What carries out the runs.
        on_progress: Told every evaluation.
        on_tuned: Told every reference that is through.
        on_plan: Told how many runs are planned.
        on_run: Told that a run is done.

    Example:
        >>> from varigrad.lab.engines.here import Here
        >>> from varigrad.lab.tasks import find_task
        >>> task = find_task("digits")
        >>> engine = Here(lambda task: task.data.load(None))
        >>> target = by_procedure(task, 1, ["lr"], 0, [0], Settings(steps=20), engine)
        >>> target.origin.startswith("the target on digits is the median final test accuracy of 10 runs of ")
        True
    """
    rows = [find_optimizer(name) for name in REFERENCES]
    points = [(row, halton(axes(row, space), BUDGET * trials, study)) for row in rows]
    own = [seed for seed in range(_FIRST_SEED, _FIRST_SEED + RUNS + len(seeds)) if seed not in seeds][:RUNS]
    found = tune(
        task,
        points,
        own,
        settings,
        engine,
        on_progress=on_progress,
        on_tuned=on_tuned,
        on_plan=on_plan,
        on_run=on_run,
    )
    medians = {
        tuned.row.name: statistics.median(run.final.test_accuracy for run in tuned.runs) for tuned in found.tuned
    }
    best = max(medians, key=medians.__getitem__)
    others = ", ".join(f"{name} {100 * value:.4g} %" for name, value in medians.items() if name != best)
    return Target(
        medians[best],
        f"the target on {task.name} is the median final test accuracy of {RUNS} runs of {best}, the best of "
        f"{', '.join(REFERENCES)} after {BUDGET * trials} trials each ({others})",
    )
