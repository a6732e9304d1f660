"""A mean and a standard deviation over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """What was measured over the seeds.

    Attributes:
        mean: Infinite if any seed's value is.
        std: Sample standard deviation (n - 1); None for a single seed or an infinite mean.
    """

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of one value or more.

        Example:
            >>> Spread.of([1.0, 2.0, 3.0])
            Spread(mean=2.0, std=1.0)
        """
        values = list(values)
        mean = sum(values) / len(values)
        known = len(values) > 1 and math.isfinite(mean)
        return cls(mean, statistics.stdev(values) if known else None)

    def text(self, digits: int, scale: float = 1.0) -> str:
        """For people, such as `"0.12 ± 0.03"`.

        Args:
            digits: Digits after the point.
            scale: What both numbers are multiplied by, such as 100 for per cent.
        """
        if math.isinf(self.mean):
            return "∞"
        mean = f"{scale * self.mean:.{digits}f}"
        return mean if self.std is None else f"{mean} ± {scale * self.std:.{digits}f}"
