"""Images to be classified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from varigrad.lab.batches import Batches, Distortion, prepared
from varigrad.lab.data import Data, Split

_EVALUATION_BATCH = 1000
_PIECE = 125


@dataclass(frozen=True)
class Classification:
    """Cross-entropy and accuracy.

    Attributes:
        distort: Augmentation beyond shifts and mirror images.
        standardise: Whether every image is brought to mean zero and variance one by itself, instead of every channel
            by the mean and the standard deviation of the data set.
        evaluation_batch: Images per batch when the model is judged.
    """

    distort: Distortion | None = None
    standardise: bool = False
    evaluation_batch: int = _EVALUATION_BATCH

    def batches(self, data: Data, batch_size: int, seed: int, pad: int) -> Batches:
        """Every epoch a permutation of its own."""
        return Batches(data, batch_size, seed, pad, self.distort, self.standardise)

    def loss(self, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy."""
        return nn.functional.cross_entropy(model(inputs), targets)

    def measure(self, model: nn.Module, data: Data, part: str) -> tuple[float, float]:
        """Mean cross-entropy, and share of the images whose class has the highest score."""
        split: Split = getattr(data, part)
        normalise: Callable[[torch.Tensor], torch.Tensor] = prepared(data, self.standardise)
        device = split.labels.device
        # What convolutions leave behind for a thousand images fits into no cache: piece by piece a CPU takes half the
        # time, for the same bits.
        convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
        piece_size = _PIECE if convolves and device.type == "cpu" else self.evaluation_batch
        loss, correct = torch.zeros((), device=device), torch.zeros((), device=device)
        for start in range(0, len(split), self.evaluation_batch):
            batch = split[start : start + self.evaluation_batch]
            images = normalise(batch.images)
            logits = torch.cat([model(images[at : at + piece_size]) for at in range(0, len(images), piece_size)])
            loss += nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
            correct += (logits.argmax(1) == batch.labels).sum()
        return loss.item() / len(split), correct.item() / len(split)
