"""Runs and comparisons made up for the tests of what is concluded and reported from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from varigrad.lab.comparison import Comparison, Contender, Rung
from varigrad.lab.optimizers import OPTIMIZERS
from varigrad.lab.tasks import TASKS
from varigrad.lab.training import Evaluation, Run, Settings


def run(lr: float, seed: int = 0, validation: float = 0.5, test: float = 0.5, accuracy: float = 0.9) -> Run:
    """A run of 20 steps that ends as told."""
    half = Evaluation(10, 2.0, validation + 1, accuracy / 2, test + 1, accuracy / 2)
    end = Evaluation(20, 1.0, validation, accuracy, test, accuracy)
    return Run(lr, seed, (half, end), False, optimizer_ms=0.25, steps_per_second=100.0, state_bytes=8.0)


def diverged(lr: float, seed: int = 0) -> Run:
    evaluation = Evaluation(10, math.inf, math.inf, 0.0, math.inf, 0.0)
    return dataclasses.replace(run(lr, seed), evaluations=(evaluation,), diverged=True)


def contender(name: str, rungs: Mapping[float, Sequence[Run]]) -> Contender:
    return Contender(OPTIMIZERS[name], tuple(Rung(lr, tuple(runs)) for lr, runs in rungs.items()))


def comparison(*contenders: Contender) -> Comparison:
    seeds = tuple(run.seed for run in contenders[0].rungs[0].runs)
    return Comparison(TASKS["digits"], Settings(20), seeds, None, contenders, seconds=1.5)


def two_optimizers() -> Comparison:
    """VSGD ahead of AdamW by more than the noise, with a rung on which a run diverged."""
    return comparison(
        contender(
            "vsgd",
            {
                0.001: [run(0.001, seed, 0.4 + seed / 100, 0.4 + seed / 100, 0.98 - seed / 1000) for seed in range(3)],
                0.01: [run(0.01, seed, 0.2 + seed / 100, 0.2 + seed / 100, 0.99 - seed / 1000) for seed in range(3)],
                0.1: [run(0.1, 0), run(0.1, 1), diverged(0.1, 2)],
            },
        ),
        contender(
            "adamw",
            {
                0.001: [run(0.001, seed, 0.3 + seed / 100, 0.3 + seed / 100, 0.95 - seed / 1000) for seed in range(3)],
                0.01: [run(0.01, seed, 0.9 + seed / 100, 0.9 + seed / 100, 0.80 - seed / 1000) for seed in range(3)],
            },
        ),
    )
