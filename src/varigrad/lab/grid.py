"""Running a comparison: every optimizer on every rung of its ladder with every seed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from varigrad.lab.comparison import Comparison, Contender, Rung
from varigrad.lab.data import Data
from varigrad.lab.ladder import above, below
from varigrad.lab.optimizers import OptimizerRow
from varigrad.lab.tasks import Task
from varigrad.lab.training import Evaluation, Run, Settings, train

EXTENSIONS = 3  # rungs added on either side, at most, while the best one is the outermost


@dataclass(frozen=True)
class Progress:
    """Where a comparison stands.

    Attributes:
        row: The optimizer being run.
        lr: Its learning rate.
        seed: The run's seed.
        run: Number of the run, from 1.
        runs: How many are planned; grows when a ladder is extended.
        done: Runs finished, the current one counted by the share of its steps.
        evaluation: The current run's latest.
        steps_per_second: The current run's speed.
    """

    row: OptimizerRow
    lr: float
    seed: int
    run: int
    runs: int
    done: float
    evaluation: Evaluation
    steps_per_second: float


def compare(
    task: Task,
    data: Data,
    rows: Sequence[OptimizerRow],
    seeds: Sequence[int],
    settings: Settings,
    rates: Sequence[float] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_contender: Callable[[Contender], None] = lambda contender: None,
) -> Comparison:
    """Train the task with every optimizer, learning rate and seed.

    Args:
        task: What to train.
        data: The task's data, on `settings.device`.
        rows: The optimizers, at least one.
        seeds: One run of every rung for each, at least one.
        settings: What all runs have in common.
        rates: Learning rates for every optimizer in place of its ladder. A ladder whose best rung is the outermost
            is extended by up to three rungs on that side; rates that are given, and a single one, stay what they are.
        on_progress: Told every evaluation of every run.
        on_contender: Told every optimizer that is through.

    Example:
        >>> from varigrad.lab.optimizers import find_optimizer
        >>> from varigrad.lab.tasks import find_task
        >>> task = find_task("digits")
        >>> rows = [find_optimizer("sgd"), find_optimizer("adamw")]
        >>> comparison = compare(task, task.data.load(None), rows, [0], Settings(steps=100), rates=[1e-3, 1e-2])
        >>> [contender.best.lr for contender in comparison.contenders]
        [0.01, 0.01]
    """
    began = time.perf_counter()
    grid = _Grid(task, data, seeds, settings, on_progress)
    grid.runs = sum(len(rates or row.rates) for row in rows) * len(seeds)
    contenders = []
    for row in rows:
        contender = Contender(row, tuple(grid.run_rung(row, lr) for lr in sorted(rates or row.rates)))
        if rates is None:
            contender = extended(contender, functools.partial(grid.run_extra_rung, row))
        on_contender(contender)
        contenders.append(contender)
    return Comparison(
        task=task,
        settings=settings,
        seeds=tuple(seeds),
        rates=tuple(sorted(rates)) if rates else None,
        contenders=tuple(contenders),
        seconds=time.perf_counter() - began,
    )


def extended(contender: Contender, run_rung: Callable[[float], Rung]) -> Contender:
    """The contender with its ladder extended outward for as long as the best rung is the outermost.

    Args:
        contender: At least one rung, all on the ladder.
        run_rung: Runs another learning rate.
    """
    lower = upper = 0
    while len(contender.rungs) > 1:
        best, rungs = contender.best, contender.rungs
        if best is rungs[0] and lower < EXTENSIONS:
            rungs = (run_rung(below(best.lr)), *rungs)
            lower += 1
        elif best is rungs[-1] and upper < EXTENSIONS:
            rungs = (*rungs, run_rung(above(best.lr)))
            upper += 1
        else:
            break
        contender = Contender(contender.row, rungs)
    return contender


class _Grid:
    """The runs of a comparison, counted."""

    def __init__(
        self,
        task: Task,
        data: Data,
        seeds: Sequence[int],
        settings: Settings,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._task = task
        self._data = data
        self._seeds = seeds
        self._settings = settings
        self._on_progress = on_progress
        self._finished = 0
        self.runs = 0  # planned

    def run_rung(self, row: OptimizerRow, lr: float) -> Rung:
        return Rung(lr, tuple(self._run(row, lr, seed) for seed in self._seeds))

    def run_extra_rung(self, row: OptimizerRow, lr: float) -> Rung:
        self.runs += len(self._seeds)
        return self.run_rung(row, lr)

    def _run(self, row: OptimizerRow, lr: float, seed: int) -> Run:
        def report(evaluation: Evaluation, steps_per_second: float) -> None:
            done = self._finished + evaluation.step / self._settings.steps
            number = self._finished + 1
            self._on_progress(Progress(row, lr, seed, number, self.runs, done, evaluation, steps_per_second))

        run = train(self._task, self._data, row, lr, seed, self._settings, report)
        self._finished += 1
        return run
