"""What a NoiseMonitor finds at one step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["COLUMNS", "NoiseRecord"]

COLUMNS = ("weights", "signal", "noise", "certain", "effective_lr", "systematic", "observation", "gain")
"""The figures of a layer; what is unknown is NaN."""


@dataclass(frozen=True)
class NoiseRecord:
    """What a `NoiseMonitor` found at one step.

    Attributes:
        step: The number of the step, from 1.
        source: Where signal and noise come from: "in-batch" or "pair".
        optimizer: The name of the optimizer's class.
        batch_size: Samples behind one step, or None.
        layers: The figures of each layer by its name: `weights` (how many), `signal`, `noise`, `certain`,
            `effective_lr`, `systematic`, `observation` and `gain`, as `NoiseMonitor` explains them.

    Example:
        >>> from varigrad.record import NoiseRecord
        >>> layer = {"weights": 10, "signal": 1.0, "noise": 4.0}
        >>> record = NoiseRecord(100, "pair", "VSGD", 32, {"0": layer})
        >>> record.snr("0"), record.noise_scale()
        (0.5, 128.0)
    """

    step: int
    source: str
    optimizer: str
    batch_size: float | None
    layers: Mapping[str, Mapping[str, float]]

    def snr(self, layer: str | None = None) -> float:
        """The signal-to-noise ratio √(signal/noise) of a layer, or of all; 0 where noise has made the signal negative.

        Args:
            layer: The layer's name; None for all together.
        """
        signal, noise = self.sums(layer)
        return math.sqrt(max(signal, 0.0) / noise) if noise > 0 else math.nan

    def noise_scale(self, layer: str | None = None) -> float:
        """The noise scale of a layer, or of all, in samples; in batches where the batch size is unknown.

        Args:
            layer: The layer's name; None for all together.
        """
        signal, noise = self.sums(layer)
        if not noise > 0:
            return math.nan
        return (self.batch_size or 1.0) * noise / signal if signal > 0 else math.inf

    def sums(self, layer: str | None = None) -> tuple[float, float]:
        """Signal and noise of a layer, or of all.

        Args:
            layer: The layer's name; None for all together.
        """
        rows: Iterable[Mapping[str, float]] = self.layers.values() if layer is None else (self.layers[layer],)
        signals, noises = zip(*((row["signal"], row["noise"]) for row in rows), strict=True)
        return sum(signals), sum(noises)
