"""A run that is to be done, and what is told while it is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch

from varigrad.lab.optimizers import OptimizerRow
from varigrad.lab.store.specification import Specification
from varigrad.lab.tasks import Task, find_task
from varigrad.lab.training import Evaluation, Run, Settings


@dataclass(frozen=True)
class Job:
    """The arguments of `train`, but for the data."""

    task: Task
    row: OptimizerRow
    lr: float
    seed: int
    settings: Settings

    @functools.cached_property
    def specification(self) -> Specification:
        """What the store knows it by."""
        return Specification.of(self.task, self.row, self.lr, self.seed, self.settings)

    @classmethod
    def of(
        cls, specification: Specification, device: torch.device, names: Mapping[str, str] = MappingProxyType({})
    ) -> Job:
        """The job of a specification, from the names that stand in it.

        Args:
            specification: What to do.
            device: Where to train, of the specification's kind.
            names: For the names of tasks and optimizers those by which they are found, where they differ.
        """
        found = find_task(names.get(specification.task, specification.task))
        task = dataclasses.replace(found, name=specification.task, glance=specification.glance)
        row = specification.row(names.get(specification.optimizer))
        return cls(task, row, specification.lr, specification.seed, specification.settings_on(device))


@dataclass(frozen=True)
class Progress:
    """Where a job stands.

    Attributes:
        job: The job.
        worker: Number of the worker it is with, from 0.
        evaluation: Its latest.
        steps_per_second: Its speed.
    """

    job: Job
    worker: int
    evaluation: Evaluation
    steps_per_second: float


OnRun = Callable[[Job, Run], Iterable[Job]]  # told a finished run; answers with the jobs that follow from it
OnProgress = Callable[[Progress], None]


class Engine(Protocol):
    """Carries out jobs."""

    def run(self, jobs: Sequence[Job], on_run: OnRun, on_progress: OnProgress) -> None:
        """Carry out the jobs and all that follow from them.

        Args:
            jobs: Each is done once, and never again if its store has it.
            on_run: Told every finished run, in any order; what it answers with is done as well.
            on_progress: Told every evaluation, as far as the engine hears of it.

        Raises:
            LabError: Jobs have failed; all others are done.
        """
