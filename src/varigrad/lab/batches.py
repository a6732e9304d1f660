"""Mini-batches whose content depends on the seed, the epoch and the step, and on nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from varigrad.lab.data import Data, Split

Distortion = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


class Normaliser:
    """Turns uint8 pixels into float32 of mean zero and variance one.

    Pixels are kept as bytes and normalised batch by batch: a quarter of the memory, for two cheap passes over a batch.
    """

    def __init__(self, data: Data) -> None:
        device = data.train.images.device
        mean = torch.tensor(data.mean, device=device).view(-1, 1, 1)
        std = torch.tensor(data.std, device=device).view(-1, 1, 1)
        self._scale = 1 / std
        self._shift = -mean / std

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The images, normalised."""
        return torch.addcmul(self._shift, images.float(), self._scale)


def standardised(images: torch.Tensor) -> torch.Tensor:
    """Every image by itself brought to mean zero and variance one; a plain one stays finite."""
    images = images.float()
    mean = images.mean((1, 2, 3), keepdim=True)
    deviation = (images - mean).square().mean((1, 2, 3), keepdim=True).sqrt()
    return (images - mean) / deviation.clamp_(min=images[0].numel() ** -0.5)


def prepared(data: Data, standardise: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """What turns pixels into what a network is fed with."""
    return standardised if standardise else Normaliser(data)


class Batches:
    """The batches of one run, in any order: `batches[step]` is what walking there would have given.

    Every epoch goes once through a permutation of its own; what does not fill a batch is left out of that epoch.

    Args:
        data: The data, on the device the batches shall be on.
        batch_size: Images per batch, at least 1; all of them if there are fewer.
        seed: The run's seed, at least 0.
        pad: Augment: shift every image by up to `pad` pixels and mirror every second one; 0 for no augmentation.
        distort: Further augmentation, of float images with pixels from 0 to 255.
        standardise: Whether every image is normalised by its own mean and deviation, not by the data set's.

    Example:
        >>> from varigrad.lab.data import Digits
        >>> inputs, labels = Batches(Digits().load(None), batch_size=32, seed=0)[100]
        >>> inputs.shape, labels.shape
        (torch.Size([32, 1, 8, 8]), torch.Size([32]))
    """

    def __init__(
        self,
        data: Data,
        batch_size: int,
        seed: int,
        pad: int = 0,
        distort: Distortion | None = None,
        standardise: bool = False,
    ) -> None:
        self._split: Split = data.train
        self._normalise = prepared(data, standardise)
        self._batch_size = min(batch_size, len(data.train))
        self._seed = seed
        self._pad = pad
        self._distort = distort
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    @property
    def per_epoch(self) -> int:
        """Steps in one epoch."""
        return len(self._split) // self._batch_size

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._order = self._permutation(epoch)
            self._epoch = epoch
        batch = self._split[self._order[position * self._batch_size : (position + 1) * self._batch_size]]
        images = batch.images
        if self._pad:
            images = crop_and_flip(images, self._pad, generator(self._seed, "augmentation", step))
        if self._distort:
            images = self._distort(images.float(), generator(self._seed, "distortion", step))
        return self._normalise(images), batch.labels

    def _permutation(self, epoch: int) -> torch.Tensor:
        order = torch.randperm(len(self._split), generator=generator(self._seed, "order", epoch))
        return order.to(self._split.labels.device)


def crop_and_flip(images: torch.Tensor, pad: int, generator: torch.Generator) -> torch.Tensor:
    """Pad every image with zeros, cut a window of the old size out at random, and mirror it or not.

    One gather for the whole batch; what is drawn does not depend on the device of the images.

    Args:
        images: Shaped (N, channels, height, width), any dtype.
        pad: Pixels added on every side, at least 0.
        generator: A CPU generator.
    """
    count, _, height, width = images.shape
    top = torch.randint(2 * pad + 1, (count, 1), generator=generator)
    left = torch.randint(2 * pad + 1, (count, 1), generator=generator)
    mirrored = torch.randint(2, (count, 1), generator=generator, dtype=torch.bool)
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    columns = torch.where(mirrored, columns.flip(1), columns)
    window = rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]  # positions in the flattened padded image
    padded = nn.functional.pad(images, (pad, pad, pad, pad)).flatten(2)
    window = window.to(images.device).view(count, 1, -1).expand(-1, images.shape[1], -1)
    return padded.gather(2, window).view_as(images)


def generator(seed: int, purpose: str, count: int) -> torch.Generator:
    """The CPU generator that a run draws from for one purpose.

    Args:
        seed: The run's seed.
        purpose: What is drawn: different purposes have unrelated streams.
        count: The step or the epoch.
    """
    # SeedSequence mixes: neighbouring seeds, epochs and steps give unrelated streams.
    mixed = np.random.SeedSequence([seed, *purpose.encode(), count]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]) >> 1)
