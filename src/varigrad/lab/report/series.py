"""The lines that are drawn, whatever draws them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from varigrad.lab.comparison import Comparison, Contender, Rung
from varigrad.lab.optimizers import OPTIMIZERS
from varigrad.lab.training import Evaluation, Run

# Told apart by colour-blind eyes and on white and black ground alike; beyond eight, the dashes tell.
_COLOURS = ("#0a84d6", "#5cc8ff", "#e0601c", "#8a8f98", "#e6a700", "#12a67c", "#d071a8", "#a4703a")
_DASHES = ("solid", "dash", "dot")


def colour(optimizer: str) -> str:
    """The colour of an optimizer, the same in every picture whatever it is compared with."""
    return _COLOURS[_place(optimizer) % len(_COLOURS)]


def _place(optimizer: str) -> int:
    number = list(OPTIMIZERS).index(optimizer) if optimizer in OPTIMIZERS else zlib.crc32(optimizer.encode())
    return number % (len(_COLOURS) * len(_DASHES))


@dataclass(frozen=True)
class Series:
    """One optimizer's line: the mean over the seeds, between the lowest and the highest seed.

    Attributes:
        name: The optimizer.
        colour: Its colour, the same in every picture.
        dash: `"solid"`, `"dash"` or `"dot"`.
        x: Steps, or learning rates.
        mean: One value for each x; infinite where a seed diverged.
        low: The lowest seed.
        high: The highest seed.
    """

    name: str
    colour: str
    dash: str
    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, name: str, x: Sequence[float], seeds: Sequence[Sequence[float]]) -> Series:
        """The series of an optimizer.

        Args:
            name: The optimizer.
            x: The positions.
            seeds: For every position, the values of all seeds.
        """
        means = tuple(sum(values) / len(values) for values in seeds)
        lows, highs = tuple(map(min, seeds)), tuple(map(max, seeds))
        return cls(name, colour(name), _DASHES[_place(name) // len(_COLOURS)], tuple(x), means, lows, highs)

    def finite(self) -> Series:
        """The same without the positions where a seed diverged."""
        kept = [index for index, value in enumerate(self.high) if math.isfinite(value)]
        x, mean, low, high = (
            tuple(values[index] for index in kept) for values in (self.x, self.mean, self.low, self.high)
        )
        return Series(self.name, self.colour, self.dash, x, mean, low, high)


def training_curves(comparison: Comparison, quantity: str) -> list[Series]:
    """How a quantity went with the steps, for every optimizer at its best learning rate.

    Args:
        comparison: What was found.
        quantity: A field of `Evaluation`, such as `"train_loss"`.
    """
    return [_training_curve(contender.row.label, contender.best, quantity) for contender in comparison.contenders]


def _training_curve(name: str, rung: Rung, quantity: str) -> Series:
    steps = sorted({evaluation.step for run in rung.runs for evaluation in run.evaluations})
    seeds = [[getattr(_at(run, step), quantity) for run in rung.runs] for step in steps]
    return Series.of(name, steps, seeds)


def _at(run: Run, step: int) -> Evaluation:
    # A run that diverged ended early: it stays what it was then.
    return next((evaluation for evaluation in run.evaluations if evaluation.step >= step), run.final)


def rate_curves(comparison: Comparison) -> list[Series]:
    """Final validation loss, by which the learning rate is chosen, over the learning rates."""
    return [_rate_curve(contender) for contender in comparison.contenders]


def _rate_curve(contender: Contender) -> Series:
    seeds = [[run.final.validation_loss for run in rung.runs] for rung in contender.rungs]
    return Series.of(contender.row.label, [rung.lr for rung in contender.rungs], seeds)


def accuracy_limits(series: Sequence[Series], target: float) -> tuple[float, float]:
    """Where an axis of accuracies should begin and end so that the end of training can be told apart.

    It begins a little below the worst mean at a quarter of the training: the steep beginning is cut off.
    """
    low = min(target, *(line.mean[len(line.mean) // 4] for line in series))
    high = max(target, *(value for line in series for value in line.high))
    margin = 0.05 * (high - low) + 1e-3
    return max(0.0, low - margin), min(1.0 + margin / 4, high + margin)


def loss_ceiling(series: Sequence[Series]) -> float:
    """Where an axis of losses should end: at the highest, but not above 40 times the lowest."""
    finite = [value for line in series for value in line.mean if math.isfinite(value)]
    return min(1.3 * max(finite), 40 * min(finite)) if finite else 1.0
