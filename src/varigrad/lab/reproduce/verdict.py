"""Whether what we measured is what the paper has."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

REPRODUCED = "reproduced"
WITHIN_NOISE = "within noise"
NOT_REPRODUCED = "not reproduced"
NOT_RUN = "not run"


@dataclass(frozen=True)
class Interval:
    """A mean over runs and its 95 % confidence interval; the ends are None for a single run.

    Attributes:
        mean: The mean.
        low: Lower end.
        high: Upper end.
        runs: How many runs.
    """

    mean: float
    low: float | None
    high: float | None
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """The interval of Student's t distribution.

        Example:
            >>> round(Interval.of([1.0, 2.0, 3.0]).high, 6)
            4.484138
        """
        mean = statistics.fmean(values)
        if len(values) < 2 or not math.isfinite(mean):
            return cls(mean, None, None, len(values))
        half = student(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
        return cls(mean, mean - half, mean + half, len(values))


def student(degrees: int) -> float:
    """The 97.5 % quantile of Student's t distribution."""
    from scipy.stats import t

    return float(t.ppf(0.975, degrees))


def of_number(paper: float, values: Sequence[float], paper_std: float | None = None, paper_seeds: int = 1) -> str:
    """Compares our runs with a published number.

    `reproduced` if the number lies in the confidence interval of our mean. `within noise` if it lies where a mean over
    as many runs as the paper's is to be expected with 95 % probability, its runs spread as ours do (or as the paper
    says). Else `not reproduced`. A single run of ours has no spread: `not run`, unless the paper has one.

    Args:
        paper: The published number.
        values: Ours, one for each seed, in the same unit.
        paper_std: The paper's standard deviation over its seeds, where it gives one.
        paper_seeds: How many runs the number is a mean over.

    Example:
        >>> of_number(1.60, [1.71, 1.57, 1.65]), of_number(1.40, [1.71, 1.57, 1.65]), of_number(9.0, [1.7, 1.6, 1.5])
        ('reproduced', 'within noise', 'not reproduced')
    """
    if len(values) < 2:
        return NOT_RUN
    if not all(math.isfinite(value) for value in values):
        return NOT_REPRODUCED
    gap, quantile = abs(statistics.fmean(values) - paper), student(len(values) - 1)
    std = statistics.stdev(values)
    if gap <= quantile * std / math.sqrt(len(values)):
        return REPRODUCED
    theirs = std if paper_std is None else max(std, paper_std)
    noise = math.sqrt(std**2 / len(values) + theirs**2 / paper_seeds)
    return WITHIN_NOISE if gap <= quantile * noise else NOT_REPRODUCED


def of_claim(leads: Sequence[float], strict: bool) -> str:
    """Judges a claim that one method is better than another, by the leads of the one in runs with the same seed.

    `reproduced` if the confidence interval of the mean lead lies above 0; `not reproduced` if it lies below; else
    `within noise`, which for a claim of being as good is `reproduced`, too.

    Args:
        leads: By how much the better one leads, one for each seed.
        strict: Whether it is claimed to be better, and not merely as good.
    """
    if len(leads) < 2:
        return NOT_RUN
    if any(math.isnan(lead) for lead in leads):
        return NOT_REPRODUCED
    mean = statistics.fmean(leads)
    half = student(len(leads) - 1) * statistics.stdev(leads) / math.sqrt(len(leads)) if math.isfinite(mean) else 0.0
    if mean > half:
        return REPRODUCED
    if mean < -half:
        return NOT_REPRODUCED
    return WITHIN_NOISE if strict else REPRODUCED


def of_estimate(expected: float, estimate: float, standard_error: float) -> str:
    """Compares a Monte Carlo estimate with what it should be: 1.96 standard errors, then 3.29 of them (0.1 %)."""
    away = abs(estimate - expected)
    if away <= 1.96 * standard_error:
        return REPRODUCED
    return WITHIN_NOISE if away <= 3.29 * standard_error else NOT_REPRODUCED


def of_value(expected: float, value: float, tolerance: float) -> str:
    """Compares what is computed without chance with what it should be; the tolerance is relative."""
    return REPRODUCED if abs(value - expected) <= tolerance * abs(expected) else NOT_REPRODUCED
