"""Records of a run, summed up: signal against noise per layer over time, and the noise scale with its uncertainty."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from varigrad.record import NoiseRecord

__all__ = ["Estimate", "Findings", "Layer", "Slice", "findings"]


@dataclass(frozen=True)
class Estimate:
    """Signal and noise averaged over several looks.

    Attributes:
        signal: Mean squared norm of the true gradient.
        error: Standard error of `signal`, from the spread between the looks; infinite for a single one.
        noise: Mean summed variance of a step's gradient.
    """

    signal: float
    error: float
    noise: float

    @classmethod
    def of(cls, signals: Sequence[float], noises: Sequence[float]) -> Estimate:
        """The estimate from the figures of each look; those that are not finite are left out."""
        pairs = [pair for pair in zip(signals, noises, strict=True) if all(map(math.isfinite, pair))]
        if not pairs:
            return cls(math.nan, math.inf, math.nan)
        kept, heard = zip(*pairs, strict=True)
        error = statistics.stdev(kept) / len(kept) ** 0.5 if len(kept) > 1 else math.inf
        return cls(statistics.fmean(kept), error, statistics.fmean(heard))

    @property
    def snr(self) -> float:
        """The signal-to-noise ratio √(signal/noise) of a step's gradient; 0 where the signal is not positive."""
        return math.sqrt(max(self.signal, 0.0) / self.noise) if self.noise > 0 else math.nan

    @property
    def batches(self) -> float:
        """The noise scale in batches, noise/signal; infinite where the signal is not positive."""
        if not self.noise > 0:
            return math.nan
        return self.noise / self.signal if self.signal > 0 else math.inf

    @property
    def interval(self) -> tuple[float, float]:
        """Where the noise scale in batches is with 95 %, in the normal approximation for the signal."""
        if not self.noise > 0:
            return math.nan, math.nan
        ends = (self.signal + 1.96 * self.error, self.signal - 1.96 * self.error)
        low, high = (self.noise / end if end > 0 else math.inf for end in ends)
        return low, high


@dataclass(frozen=True)
class Slice:
    """A stretch of the run.

    Attributes:
        first: The step of its first look.
        last: The step of its last look.
        whole: All layers together.
        layers: Each layer, by its name.
    """

    first: int
    last: int
    whole: Estimate
    layers: dict[str, Estimate]


@dataclass(frozen=True)
class Layer:
    """A layer over the second half of the run.

    Attributes:
        name: Its path in the model.
        weights: How many it has.
        estimate: Signal and noise.
        certain: Share of weights whose sign is certain; NaN if unknown.
        effective_lr: Length of a step over that of the mean gradient.
        systematic: Systematic over observation variance, as the optimizer believes; NaN if unknown.
        gain: The mean of the learned gains; NaN if none is learned.
    """

    name: str
    weights: int
    estimate: Estimate
    certain: float
    effective_lr: float
    systematic: float
    gain: float


@dataclass(frozen=True)
class Findings:
    """What is known of a run.

    Attributes:
        optimizer: The name of its class.
        batch_size: Samples behind a step, or None.
        source: "in-batch", "pair", or both.
        looks: How many looks there are.
        steps: The first and the last step looked at.
        settled: How many looks the second half has, which `whole` and `layers` are of.
        slices: The whole run, in stretches of equally many looks.
        whole: All layers together.
        layers: Each layer, in the order of the model.
    """

    optimizer: str
    batch_size: float | None
    source: str
    looks: int
    steps: tuple[int, int]
    settled: int
    slices: tuple[Slice, ...]
    whole: Estimate
    layers: tuple[Layer, ...]


def findings(records: Sequence[NoiseRecord], columns: int = 24) -> Findings:
    """Sums up a run.

    Args:
        records: At least one, in the order of their steps.
        columns: The most stretches to cut it into.
    """
    names = list(dict.fromkeys(name for record in records for name in record.layers))
    half = records[len(records) // 2 :]
    # One look alone says little: a stretch has four, unless there would be hardly any stretches.
    count = min(columns, len(records), max(6, len(records) // 4))
    ends = [round(len(records) * number / count) for number in range(count + 1)]
    return Findings(
        optimizer=records[-1].optimizer,
        batch_size=records[-1].batch_size,
        source=" and ".join(sorted({record.source for record in records})),
        looks=len(records),
        steps=(records[0].step, records[-1].step),
        settled=len(half),
        slices=tuple(_slice(records[start:end], names) for start, end in itertools.pairwise(ends)),
        whole=_estimate(half, None),
        layers=tuple(_layer(half, name) for name in names),
    )


def _slice(records: Sequence[NoiseRecord], names: Sequence[str]) -> Slice:
    layers = {name: _estimate(records, name) for name in names}
    return Slice(records[0].step, records[-1].step, _estimate(records, None), layers)


def _estimate(records: Sequence[NoiseRecord], layer: str | None) -> Estimate:
    pairs = [record.sums(layer) for record in records if layer is None or layer in record.layers]
    return Estimate.of([signal for signal, _ in pairs], [noise for _, noise in pairs])


def _layer(records: Sequence[NoiseRecord], name: str) -> Layer:
    rows = [record.layers[name] for record in records if name in record.layers]

    def mean(column: str) -> float:
        known = [row[column] for row in rows if math.isfinite(row[column])]
        return statistics.fmean(known) if known else math.nan

    observation = mean("observation")
    return Layer(
        name=name,
        weights=int(rows[-1]["weights"]) if rows else 0,
        estimate=_estimate(records, name),
        certain=mean("certain"),
        effective_lr=mean("effective_lr"),
        systematic=mean("systematic") / observation if observation > 0 else math.nan,
        gain=mean("gain"),
    )
