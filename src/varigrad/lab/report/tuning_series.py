"""The lines and bars that are drawn of tunings, whatever draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from varigrad.lab.report.series import Series, colour
from varigrad.lab.tuning import scores
from varigrad.lab.tuning.tune import Tuning

HIGHEST_TAU = 4.0  # where profiles end: who needs longer is not in the race


@dataclass(frozen=True)
class Bar:
    """An optimizer's time to target.

    Attributes:
        name: The optimizer.
        colour: Its colour.
        median: Over the seeds; infinite where half of them never got there.
        low: The fastest seed.
        high: The slowest; infinite where one never got there.
    """

    name: str
    colour: str
    median: float
    low: float
    high: float


def bars(tuning: Tuning, measure: str) -> list[Bar]:
    """The times to target of all optimizers."""
    found = []
    for tuned in tuning.tuned:
        times = scores.times(tuned, tuning.target, measure)
        name = tuned.row.label
        found.append(Bar(name, colour(name), float(np.median(times)), float(times.min()), float(times.max())))
    return found


def sensitivity(tuning: Tuning) -> list[Series]:
    """Final validation loss of every trial over its learning rate."""
    found = []
    for tuned in tuning.tuned:
        trials = sorted(tuned.all_trials, key=lambda trial: trial.point.lr)
        losses = [[trial.run.final.validation_loss] for trial in trials]
        found.append(Series.of(tuned.row.label, [trial.point.lr for trial in trials], losses))
    return found


def profiles(tunings: Sequence[Tuning], measure: str) -> list[Series]:
    """The performance profiles as steps, from τ = 1 to `HIGHEST_TAU`."""
    found = []
    labels = {tuned.row.name: tuned.row.label for tuning in tunings for tuned in tuning.tuned}
    for name, (taus, shares) in scores.profile(tunings, measure).items():
        x, y = [1.0], [shares[0]]
        for tau, share in zip(taus[1:], shares[1:], strict=True):
            if tau <= HIGHEST_TAU:
                x += [tau, tau]
                y += [y[-1], share]
        found.append(Series.of(labels[name], [*x, HIGHEST_TAU], [[share] for share in [*y, y[-1]]]))
    return found
