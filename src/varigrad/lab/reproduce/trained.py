"""Tables and figures that take training: the runs of an item's cells, and what they say."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from varigrad.lab import schedules
from varigrad.lab.engines.jobs import Engine, Job, OnProgress
from varigrad.lab.errors import LabError
from varigrad.lab.optimizers import find_optimizer
from varigrad.lab.papers.paper import TEST_ACCURACY, TEST_ERROR, TEST_LOSS, TRAIN_LOSS, Cell, Claim, Item, Setting
from varigrad.lab.reproduce import verdict
from varigrad.lab.reproduce.findings import Curve, Row
from varigrad.lab.tasks import find_task
from varigrad.lab.training import Evaluation, Run, Settings

SMOKE_STEPS = 3
FEWEST_TO_CHOOSE = 1000
# What is measured, and whether more of it is better.
METRICS: dict[str, tuple[Callable[[Evaluation], float], bool]] = {
    TEST_ERROR: (lambda evaluation: 100 * (1 - evaluation.test_accuracy), False),
    TEST_ACCURACY: (lambda evaluation: 100 * evaluation.test_accuracy, True),
    TEST_LOSS: (lambda evaluation: evaluation.test_loss, False),
    TRAIN_LOSS: (lambda evaluation: evaluation.train_loss, False),
}


@dataclass(frozen=True)
class Manner:
    """What all runs of an item have in common.

    Attributes:
        scale: A key of `SCALES`.
        device: What they are made on.
        autocast: Whether training computes in bfloat16 what `torch.autocast` does.
    """

    scale: str
    device: torch.device
    autocast: bool = False


@dataclass(frozen=True)
class Trial:
    """A cell with one of its settings: what several cells that differ only in what they measure share.

    Attributes:
        task: The name of the task.
        optimizer: The name of the optimizer.
        setting: Its hyperparameters.
        schedule: The learning rate's course in a run in full.
        steps: Steps of a run in full.
        chosen: Whether it is one of several that are chosen among, by validation.
    """

    task: str
    optimizer: str
    setting: Setting
    schedule: str
    steps: int
    chosen: bool

    def job(self, manner: Manner, seed: int, choosing: bool = False) -> Job:
        """The run with a seed.

        Args:
            manner: How it is made.
            seed: The seed.
            choosing: Whether it only serves to choose among settings. At a tenth such a run is a tenth as long again,
                but not shorter than a thousand steps: else the choice would take most of the time.

        Raises:
            LabError: The task or the optimizer cannot be had.
        """
        task, row, scale = find_task(self.task), find_optimizer(self.optimizer), manner.scale
        steps = SMOKE_STEPS if scale == "smoke" else self.steps if scale == "full" else math.ceil(self.steps / 10)
        if choosing and self.chosen and scale == "tenth":
            steps = min(steps, max(FEWEST_TO_CHOOSE, math.ceil(steps / 10)))
        if self.schedule == "paper":
            assert task.protocol is not None
            row = task.protocol.row(row)
        else:
            row = dataclasses.replace(row, arguments={**row.arguments, **self.setting.arguments})
        settings = Settings(
            steps,
            self.setting.weight_decay,
            schedules.stretched(self.schedule, steps / self.steps),
            manner.device,
            # MNIST's validation part is no part of the papers' training part; with something to choose it is needed.
            everything=not self.chosen and task.name.startswith(("cifar", "tiny", "imagenet", "fashion")),
            autocast=manner.autocast,
        )
        return Job(task, row, self.setting.lr, seed, settings)


def trials(cell: Cell) -> list[Trial]:
    """One for each setting."""
    several = len(cell.settings) > 1
    return [Trial(cell.task, cell.optimizer, setting, cell.schedule, cell.steps, several) for setting in cell.settings]


def train_item(
    item: Item,
    manner: Manner,
    seeds: Sequence[int],
    engine: Engine,
    on_progress: OnProgress,
    on_plan: Callable[[int], None],
    on_run: Callable[[], None],
    say: Callable[[str], None],
) -> tuple[list[Row], list[Curve], list[dict[str, object]]]:
    """Makes the runs of an item and judges its cells and claims.

    Where a cell has several settings, each is run with the first seed (at a tenth, shorter), and the one with the
    lowest loss on the validation part with all of them. What cannot be run for want of an optimizer's package is not
    run, and said.

    Args:
        item: The item.
        manner: How they are made.
        seeds: The seeds of every cell.
        engine: What carries out the runs.
        on_progress: Told every evaluation.
        on_plan: Told how many runs are planned whenever that number grows.
        on_run: Told that a run is done.
        say: Told in one line what cannot be run.

    Raises:
        LabError: The data of a task is missing, or runs have failed.
    """
    wanted: dict[str, list[Trial]] = {}
    missing: dict[str, str] = {}
    for cell in item.cells:
        try:
            for trial in trials(cell):
                trial.job(manner, seeds[0])
            wanted[cell.key] = trials(cell)
        except LabError as error:
            missing[cell.key] = str(error)
    for reason in dict.fromkeys(missing.values()):
        say(reason)
    plan = _Plan(list(wanted.values()), manner, seeds, on_plan, on_run)
    engine.run(plan.first(), plan.follow, on_progress)
    runs = {key: plan.runs(trials) for key, trials in wanted.items()}
    rows = [_number(cell, runs.get(cell.key), missing.get(cell.key, ""), plan, manner.scale) for cell in item.cells]
    rows += [_claim(claim, item, runs) for claim in item.claims]
    return rows, _curves(item, runs), plan.records()


class _Plan:
    """Which runs there are to make, and which follow from those that are made."""

    def __init__(
        self,
        groups: Sequence[Sequence[Trial]],
        manner: Manner,
        seeds: Sequence[int],
        on_plan: Callable[[int], None],
        on_run: Callable[[], None],
    ) -> None:
        self._groups = list({_key(group): group for group in groups}.values())
        self._manner = manner
        self._seeds = seeds
        self._on_plan = on_plan
        self._on_run = on_run
        self._runs: dict[str, Run] = {}
        self._asked: dict[str, Job] = {}

    def _jobs(self, trial: Trial, seeds: Iterable[int], choosing: bool = False) -> list[Job]:
        jobs = []
        for seed in seeds:
            job = trial.job(self._manner, seed, choosing)
            if job.specification.key not in self._asked:
                self._asked[job.specification.key] = job
                jobs.append(job)
        if jobs:
            self._on_plan(len(self._asked))
        return jobs

    def first(self) -> list[Job]:
        """Every setting once where there are several, else every seed."""
        return [
            job
            for group in self._groups
            for trial in group
            for job in self._jobs(trial, self._seeds[:1] if len(group) > 1 else self._seeds, len(group) > 1)
        ]

    def follow(self, job: Job, run: Run) -> list[Job]:
        """The other seeds of a setting that has turned out best."""
        self._runs[job.specification.key] = run
        self._on_run()
        more = []
        for group in self._groups:
            best = self.best(group)
            if len(group) > 1 and best is not None:
                more += self._jobs(best, self._seeds)
        return more

    def _run(self, trial: Trial, seed: int, choosing: bool = False) -> Run | None:
        return self._runs.get(trial.job(self._manner, seed, choosing).specification.key)

    def best(self, group: Sequence[Trial]) -> Trial | None:
        """The setting with the lowest final loss on the validation part; None while some are to be run."""
        firsts = [self._run(trial, self._seeds[0], len(group) > 1) for trial in group]
        if any(run is None for run in firsts):
            return None
        losses = [run.final.validation_loss for run in firsts if run is not None]
        return group[losses.index(min(losses))]

    def runs(self, group: Sequence[Trial]) -> list[Run]:
        """Those of a cell, in the order of the seeds."""
        best = self.best(group)
        assert best is not None
        return [run for seed in self._seeds if (run := self._run(best, seed)) is not None]

    def setting(self, group: Sequence[Trial]) -> Setting:
        """The one that a cell is judged by."""
        best = self.best(group)
        assert best is not None
        return best.setting

    def records(self) -> list[dict[str, object]]:
        """What was run, for the record."""
        records: list[dict[str, object]] = []
        for key, job in self._asked.items():
            run = self._runs[key]
            records.append(
                {
                    "specification": job.specification.values(),
                    "diverged": run.diverged,
                    "step": [evaluation.step for evaluation in run.evaluations],
                    "train_loss": [evaluation.train_loss for evaluation in run.evaluations],
                    "test_loss": [evaluation.test_loss for evaluation in run.evaluations],
                    "test_accuracy": [evaluation.test_accuracy for evaluation in run.evaluations],
                    "validation_loss": run.final.validation_loss,
                }
            )
        return records


def _key(group: Sequence[Trial]) -> str:
    return repr(list(group))


def measured(cell: Cell, run: Run) -> float:
    """What a cell takes from a run: the last value, or the best one."""
    measure, more = METRICS[cell.metric]
    values = [measure(evaluation) for evaluation in run.evaluations]
    return (max if more else min)(values) if cell.best else values[-1]


def _number(cell: Cell, runs: list[Run] | None, reason: str, plan: _Plan, scale: str) -> Row:
    label = f"{cell.key}: {'best ' if cell.best else ''}{cell.metric}" if cell.metric not in cell.key else cell.key
    if runs is None:
        return Row(label, cell.number, None, None, None, verdict.NOT_RUN, reason)
    values = [measured(cell, run) for run in runs]
    interval = verdict.Interval.of(values)
    chosen = plan.setting(trials(cell))
    detail = f"{len(values)} seed{'s' if len(values) > 1 else ''}"
    if len(cell.settings) > 1:
        detail += f"; chosen lr {chosen.lr:g}" + "".join(f", {k} {v}" for k, v in chosen.arguments.items())
        rates = sorted({setting.lr for setting in cell.settings})
        if chosen.lr in (rates[0], rates[-1]) and len(rates) > 1:
            detail += " (on the edge of what was tried)"
    if diverged := sum(run.diverged for run in runs):
        detail += f"; {diverged} diverged"
    if cell.number is None:
        judged = ""
    elif scale != "full":
        judged = verdict.NOT_RUN + " in full"
    else:
        judged = verdict.of_number(cell.number, values, cell.std, cell.seeds)
    return Row(label, cell.number, interval.mean, interval.low, interval.high, judged, detail)


def _claim(claim: Claim, item: Item, runs: dict[str, list[Run]]) -> Row:
    cells = {cell.key: cell for cell in item.cells}
    better, worse = cells[claim.better], cells[claim.worse]
    if claim.better not in runs or claim.worse not in runs:
        return Row(claim.text, None, None, None, None, verdict.NOT_RUN)
    _, more = METRICS[better.metric]
    leads = [
        (measured(better, one) - measured(worse, other)) * (1 if more else -1)
        for one, other in zip(runs[claim.better], runs[claim.worse], strict=True)
    ]
    interval = verdict.Interval.of(leads)
    judged = verdict.of_claim(leads, claim.strict)
    return Row(claim.text, None, interval.mean, interval.low, interval.high, judged, f"lead in {better.metric}")


def _curves(item: Item, runs: dict[str, list[Run]]) -> list[Curve]:
    curves = []
    for cell in item.cells:
        if not runs.get(cell.key):
            continue
        measure, _ = METRICS[cell.metric]
        longest = max(runs[cell.key], key=lambda run: len(run.evaluations))
        steps = [evaluation.step for evaluation in longest.evaluations]
        values = [
            statistics.median(measure(run.evaluations[min(index, len(run.evaluations) - 1)]) for run in runs[cell.key])
            for index in range(len(steps))
        ]
        label = cell.key.removeprefix(f"{cell.task} ").removesuffix(f", {cell.metric}")
        curves.append(Curve(f"{cell.task}: {cell.metric}", label, tuple(map(float, steps)), tuple(values)))
    return curves
