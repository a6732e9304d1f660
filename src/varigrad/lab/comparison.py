"""What a comparison of optimizers found: contenders, the rungs of their ladders, and the runs on each rung."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from varigrad.lab.optimizers import OptimizerRow
from varigrad.lab.spread import Spread
from varigrad.lab.tasks import Task
from varigrad.lab.training import Run, Settings


@dataclass(frozen=True)
class Rung:
    """One learning rate and its runs, one for each seed."""

    lr: float
    runs: tuple[Run, ...]

    @property
    def diverged(self) -> int:
        """How many of the runs diverged."""
        return sum(run.diverged for run in self.runs)

    @property
    def validation_loss(self) -> Spread:
        """Final loss on the validation part."""
        return Spread.of(run.final.validation_loss for run in self.runs)

    @property
    def test_loss(self) -> Spread:
        """Final loss on the test part."""
        return Spread.of(run.final.test_loss for run in self.runs)

    @property
    def test_accuracy(self) -> Spread:
        """Final accuracy on the test part."""
        return Spread.of(run.final.test_accuracy for run in self.runs)

    @property
    def best_test_accuracy(self) -> Spread:
        """Highest accuracy on the test part during training, which nobody can stop at: for reference only."""
        return Spread.of(run.best_test_accuracy for run in self.runs)

    @property
    def optimizer_ms(self) -> float:
        """Milliseconds per optimizer step: median over the seeds."""
        return statistics.median(run.optimizer_ms for run in self.runs)

    @property
    def state_bytes(self) -> float:
        """Bytes of optimizer state per parameter."""
        return self.runs[0].state_bytes

    def steps_to(self, target: float) -> tuple[float, int]:
        """Median number of steps to a test accuracy (infinite if half the seeds never got there), and how many did."""
        steps = [run.steps_to(target) for run in self.runs]
        reached = sum(step is not None for step in steps)
        return statistics.median(math.inf if step is None else step for step in steps), reached

    @property
    def rank(self) -> tuple[bool, float, float]:
        """The lower the better: nothing diverged, then low validation loss, then high validation accuracy.

        The test part has no say in it.
        """
        accuracy = Spread.of(run.final.validation_accuracy for run in self.runs).mean
        return self.diverged > 0, self.validation_loss.mean, -accuracy


@dataclass(frozen=True)
class Contender:
    """An optimizer and all that was tried with it, from the lowest learning rate to the highest."""

    row: OptimizerRow
    rungs: tuple[Rung, ...]

    @property
    def best(self) -> Rung:
        """The rung the optimizer is judged by: the best on the validation part."""
        return min(self.rungs, key=lambda rung: rung.rank)

    @property
    def on_edge(self) -> bool:
        """Whether the best rung is the outermost of several: a better one may lie beyond."""
        best = self.best
        return len(self.rungs) > 1 and (best is self.rungs[0] or best is self.rungs[-1])


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: what all reports are made from.

    Attributes:
        task: What was trained.
        settings: What all runs had in common.
        seeds: The seeds every rung was run with.
        rates: The learning rates given instead of the ladders; None if the ladders were used.
        contenders: In the order asked for.
        seconds: What it took, in seconds.
    """

    task: Task
    settings: Settings
    seeds: tuple[int, ...]
    rates: tuple[float, ...] | None
    contenders: tuple[Contender, ...]
    seconds: float
