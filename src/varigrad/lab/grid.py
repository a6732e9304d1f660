"""Running a comparison: every optimizer on every rung of its ladder with every seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from varigrad.lab.comparison import Comparison, Contender, Rung
from varigrad.lab.data import Data
from varigrad.lab.engines.here import Here
from varigrad.lab.engines.jobs import Engine, Job, OnProgress
from varigrad.lab.ladder import above, below
from varigrad.lab.optimizers import OptimizerRow
from varigrad.lab.tasks import Task
from varigrad.lab.training import Run, Settings

EXTENSIONS = 3  # rungs added on either side, at most, while the best one is the outermost


def compare(
    task: Task,
    data: Data,
    rows: Sequence[OptimizerRow],
    seeds: Sequence[int],
    settings: Settings,
    rates: Sequence[float] | None = None,
    on_progress: OnProgress = lambda progress: None,
    on_contender: Callable[[Contender], None] = lambda contender: None,
    on_plan: Callable[[int], None] = lambda runs: None,
    on_run: Callable[[], None] = lambda: None,
    engine: Engine | None = None,
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
        on_contender: Told every optimizer that is through, in the order in which they are.
        on_plan: Told how many runs are planned whenever that number grows.
        on_run: Told that a run is done, or was done before.
        engine: What carries out the runs; this process by default, which keeps none of them.

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
    climbs = [_Climb(task, row, tuple(sorted(rates or row.rates)), seeds, settings, rates is None) for row in rows]
    planned = 0

    def plan(jobs: Iterable[Job]) -> list[Job]:
        nonlocal planned
        jobs = list(jobs)
        planned += len(jobs)
        if jobs:
            on_plan(planned)
        return jobs

    def follow(job: Job, run: Run) -> list[Job]:
        on_run()
        climb = next(climb for climb in climbs if climb.row is job.row)
        climb.add(run)
        if not climb.is_up:
            return []
        more = plan(climb.more())
        if not more:
            on_contender(climb.contender)
        return more

    first = plan(job for climb in climbs for job in climb.jobs())
    (engine or Here(lambda task: data)).run(first, follow, on_progress)
    return Comparison(
        task=task,
        settings=settings,
        seeds=tuple(seeds),
        rates=tuple(sorted(rates)) if rates else None,
        contenders=tuple(climb.contender for climb in climbs),
        seconds=time.perf_counter() - began,
    )


def extension(contender: Contender, ladder: Sequence[float]) -> float | None:
    """The rung to add to a ladder: beyond the best, while that is the outermost and not too many were added.

    Args:
        contender: What was found on the rungs so far, all on the ladder.
        ladder: The rungs tried first, from low to high.
    """
    rates, best = [rung.lr for rung in contender.rungs], contender.best.lr
    if len(rates) > 1 and best == rates[0] and rates.index(ladder[0]) < EXTENSIONS:
        return below(best)
    if len(rates) > 1 and best == rates[-1] and rates[::-1].index(ladder[-1]) < EXTENSIONS:
        return above(best)
    return None


class _Climb:
    """One optimizer on its ladder."""

    def __init__(
        self,
        task: Task,
        row: OptimizerRow,
        rates: tuple[float, ...],
        seeds: Sequence[int],
        settings: Settings,
        extends: bool,
    ) -> None:
        self.row = row
        self._task = task
        self._ladder = self._rates = rates
        self._seeds = seeds
        self._settings = settings
        self._extends = extends
        self._runs: dict[tuple[float, int], Run] = {}

    def jobs(self) -> list[Job]:
        """Those of the rungs there are at first."""
        return [job for lr in self._rates for job in self._rung(lr)]

    def _rung(self, lr: float) -> list[Job]:
        return [Job(self._task, self.row, lr, seed, self._settings) for seed in self._seeds]

    def add(self, run: Run) -> None:
        self._runs[run.lr, run.seed] = run

    @property
    def is_up(self) -> bool:
        """Whether every run of every rung is there."""
        return len(self._runs) == len(self._rates) * len(self._seeds)

    @property
    def contender(self) -> Contender:
        rungs = (Rung(lr, tuple(self._runs[lr, seed] for seed in self._seeds)) for lr in self._rates)
        return Contender(self.row, tuple(rungs))

    def more(self) -> list[Job]:
        """The jobs of another rung, where there shall be one."""
        lr = extension(self.contender, self._ladder) if self._extends else None
        if lr is None:
            return []
        self._rates = tuple(sorted((*self._rates, lr)))
        return self._rung(lr)
