"""Trials of every optimizer, the winner of each by validation, and the winner again with other seeds."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from varigrad.lab.comparison import Comparison, Contender, Rung
from varigrad.lab.engines.jobs import Engine, Job, OnProgress
from varigrad.lab.optimizers import OptimizerRow
from varigrad.lab.tasks import Task
from varigrad.lab.training import Run, Settings
from varigrad.lab.tuning.space import Point

_FEWEST_FOR_AN_EDGE = 3  # different values of a hyperparameter


@dataclass(frozen=True)
class Trial:
    """A point that was tried, and what it gave with the seed of the trials."""

    point: Point
    run: Run

    @property
    def rank(self) -> tuple[bool, float, float]:
        """The lower the better: as rungs are ranked, by validation; the test part has no say in it."""
        return Rung(self.point.lr, (self.run,)).rank


@dataclass(frozen=True)
class Tuned:
    """An optimizer that has been tuned on a task.

    Attributes:
        row: The optimizer.
        trials: In the order of the points.
        runs: The winner again: a run for each seed, none of which had a say in the choice.
        further: The same again from other points, one for each further study.
    """

    row: OptimizerRow
    trials: tuple[Trial, ...]
    runs: tuple[Run, ...]
    further: tuple[Tuned, ...] = ()

    @property
    def studies(self) -> tuple[Tuned, ...]:
        """All studies one by one."""
        return dataclasses.replace(self, further=()), *self.further

    @property
    def all_trials(self) -> tuple[Trial, ...]:
        """Those of all studies."""
        return tuple(trial for study in self.studies for trial in study.trials)

    @property
    def winner(self) -> Trial:
        """The trial with the lowest final validation loss."""
        return min(self.trials, key=lambda trial: trial.rank)

    @property
    def rung(self) -> Rung:
        """The winner's runs, those of all studies together."""
        return Rung(self.winner.point.lr, tuple(run for study in self.studies for run in study.runs))

    @property
    def edges(self) -> tuple[str, ...]:
        """Hyperparameters of which a winner has the outermost value of several: a better one may lie beyond."""
        found = [name for study in self.further for name in study.edges]
        for name, value in self.winner.point.values.items():
            tried = {trial.point.values[name] for trial in self.trials if name in trial.point.values}
            if len(tried) >= _FEWEST_FOR_AN_EDGE and value in (min(tried), max(tried)):
                found.append(name)
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Tuning:
    """What came of tuning on one task.

    Attributes:
        task: The task.
        settings: What all runs had in common, but for the weight decay.
        seeds: The seeds of the winners' runs, the same for every optimizer.
        trial_seed: The seed of the trials, none of `seeds`.
        target: The test accuracy to be reached.
        tuned: In the order asked for.
        seconds: What it took, in seconds.
        target_origin: Where the target comes from, in a sentence; empty if it was given.
    """

    task: Task
    settings: Settings
    seeds: tuple[int, ...]
    trial_seed: int
    target: float
    tuned: tuple[Tuned, ...]
    seconds: float
    target_origin: str = ""

    def comparison(self) -> Comparison:
        """The winners as a comparison, whose rungs are the trials sorted by their learning rate.

        The winner's rung has its runs with all seeds, every other its one trial.
        """
        task = dataclasses.replace(self.task, target=self.target)
        contenders = tuple(Contender(tuned.row, (tuned.rung,)) for tuned in self.tuned)
        return Comparison(task, self.settings, self.seeds, None, contenders, self.seconds)


def tune(
    task: Task,
    points: Mapping[OptimizerRow, Sequence[Point]] | Sequence[tuple[OptimizerRow, Sequence[Point]]],
    seeds: Sequence[int],
    settings: Settings,
    engine: Engine,
    target: float | None = None,
    on_progress: OnProgress = lambda progress: None,
    on_tuned: Callable[[Tuned], None] = lambda tuned: None,
    on_plan: Callable[[int], None] = lambda runs: None,
    on_run: Callable[[], None] = lambda: None,
    further: Sequence[Sequence[tuple[OptimizerRow, Sequence[Point]]]] = (),
) -> Tuning:
    """Tune every optimizer on a task, and repeat its winner.

    The trials share one seed that is none of `seeds`: what the winner is judged by had no say in the choice.

    Args:
        task: What to train.
        points: For every optimizer what to try, at least one point.
        seeds: Those of the winners' runs, at least one.
        settings: What all runs have in common; its weight decay gives way to the points'.
        engine: What carries out the runs.
        target: The test accuracy to be reached; the task's by default.
        on_progress: Told every evaluation.
        on_tuned: Told every optimizer that is through.
        on_plan: Told how many runs are planned.
        on_run: Told that a run is done, or was done before.
        further: The points of further studies, of the same optimizers in the same order.

    Example:
        >>> from varigrad.lab.engines.here import Here
        >>> from varigrad.lab.optimizers import find_optimizer
        >>> from varigrad.lab.tasks import find_task
        >>> task = find_task("digits")
        >>> points = [(find_optimizer("sgd"), [Point(0.001), Point(0.03)])]
        >>> engine = Here(lambda task: task.data.load(None))
        >>> tune(task, points, [0], Settings(steps=100), engine).tuned[0].winner.point.lr
        0.03
    """
    began = time.perf_counter()
    pairs = list(points.items() if isinstance(points, Mapping) else points)
    studies = [[_Search(task, row, tuple(own), seeds, settings) for row, own in study] for study in (pairs, *further)]
    searches = [search for study in studies for search in study]
    on_plan(sum(len(search.points) + len(seeds) for search in searches))
    owners: dict[str, list[_Search]] = {}
    done: dict[str, Run] = {}

    def asked(search: _Search, jobs: Sequence[Job]) -> list[Job]:
        """Those of the jobs that nobody has asked for before: two studies may hit upon the same point."""
        new: list[Job] = []
        for job in jobs:
            askers = owners.setdefault(job.specification.key, [])
            askers.append(search)
            if job.specification.key in done:
                new += taken(search, job)
            elif len(askers) == 1:
                new.append(job)
        return new

    def taken(search: _Search, job: Job) -> list[Job]:
        on_run()
        more = search.after(job, done[job.specification.key])
        if search.is_done:
            on_tuned(search.tuned)
        return asked(search, more)

    def follow(job: Job, run: Run) -> list[Job]:
        done[job.specification.key] = run
        return [more for search in list(owners[job.specification.key]) for more in taken(search, job)]

    engine.run([job for search in searches for job in asked(search, search.jobs())], follow, on_progress)
    return Tuning(
        task=task,
        settings=settings,
        seeds=tuple(seeds),
        trial_seed=trial_seed(seeds),
        target=task.target if target is None else target,
        tuned=tuple(
            dataclasses.replace(first.tuned, further=tuple(other.tuned for other in others))
            for first, *others in zip(*studies, strict=True)
        ),
        seconds=time.perf_counter() - began,
    )


def trial_seed(seeds: Sequence[int]) -> int:
    """The seed of the trials: the lowest from 1000 on that is none of the winners'.

    Example:
        >>> trial_seed([0, 1, 1000])
        1001
    """
    return next(seed for seed in range(1000, 1001 + len(seeds)) if seed not in seeds)


class _Search:
    """One optimizer's trials, and after them its winner's runs."""

    def __init__(
        self, task: Task, row: OptimizerRow, points: tuple[Point, ...], seeds: Sequence[int], settings: Settings
    ) -> None:
        self.points = points
        self._task = task
        self._row = row
        self._seeds = seeds
        self._settings = settings
        self._trial_seed = trial_seed(seeds)
        self._runs: dict[str, Run] = {}

    def _job(self, point: Point, seed: int) -> Job:
        arguments = {**self._row.arguments, **point.arguments}
        row = dataclasses.replace(self._row, arguments=arguments)
        settings = dataclasses.replace(self._settings, weight_decay=point.weight_decay)
        return Job(self._task, row, point.lr, seed, settings)

    def jobs(self) -> list[Job]:
        return [self._job(point, self._trial_seed) for point in self.points]

    def after(self, job: Job, run: Run) -> list[Job]:
        """Take a run, and say what follows from it: the winner's runs once all trials are there."""
        self._runs[job.specification.key] = run
        if len(self._runs) != len(self.points):
            return []
        return [self._job(self._winner.point, seed) for seed in self._seeds]

    @property
    def is_done(self) -> bool:
        return len(self._runs) == len(self.points) + len(self._seeds)

    @property
    def _trials(self) -> tuple[Trial, ...]:
        found = ((point, self._job(point, self._trial_seed).specification.key) for point in self.points)
        return tuple(Trial(point, self._runs[key]) for point, key in found)

    @property
    def _winner(self) -> Trial:
        return min(self._trials, key=lambda trial: trial.rank)

    @property
    def tuned(self) -> Tuned:
        winner = self._winner.point
        runs = (self._runs[self._job(winner, seed).specification.key] for seed in self._seeds)
        return Tuned(self._row, self._trials, tuple(runs))
