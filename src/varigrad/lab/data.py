"""Data sets as the lab holds them: every image decoded, in memory, as tensors."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from varigrad.lab.errors import LabError
from varigrad.lab.parquet import ImageTable, load_table


@dataclass(frozen=True)
class Split:
    """Images and their classes.

    Attributes:
        images: Pixels as they were published, uint8, shaped (N, channels, height, width).
        labels: Classes, int64, shaped (N,).
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        """The same split on another device."""
        return Split(self.images.to(device), self.labels.to(device))

    def __getitem__(self, rows: torch.Tensor | slice) -> Split:
        return Split(self.images[rows], self.labels[rows])

    def some(self, count: int) -> Split:
        """`count` of them, or all if there are no more: always the same, drawn at random."""
        return self if count >= len(self) else self[shuffled(len(self))[:count].to(self.labels.device)]


@dataclass(frozen=True)
class Data:
    """A data set in three parts, and what normalises it.

    Attributes:
        train: What the network is trained on.
        validation: Held out of the published training part; learning rates are chosen on it.
        test: The published test part; nothing is chosen on it.
        mean: Mean of each channel, in units of the pixels.
        std: Standard deviation of each channel, in units of the pixels.
    """

    train: Split
    validation: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to(self, device: torch.device) -> Data:
        """The same data on another device."""
        return Data(self.train.to(device), self.validation.to(device), self.test.to(device), self.mean, self.std)

    def whole(self) -> Data:
        """The same with the validation part trained on, too: all that was published to train on."""
        images = torch.cat([self.train.images, self.validation.images])
        labels = torch.cat([self.train.labels, self.validation.labels])
        return Data(Split(images, labels), self.validation, self.test, self.mean, self.std)

    def glance(self, count: int) -> Data:
        """The same with no more than `count` images to validate and to test on."""
        return dataclasses.replace(self, validation=self.validation.some(count), test=self.test.some(count))


def shuffled(count: int) -> torch.Tensor:
    """The numbers below `count` in an order drawn once and for all."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


def held_out(split: Split, count: int) -> tuple[Split, Split]:
    """A split in two: all but `count` images, and `count` images.

    Which ones is drawn once and for all: it depends on the size of the split only, never on a run's seed, so that
    every run of every optimizer is validated on the same images.
    """
    order = shuffled(len(split))
    return split[order[count:]], split[order[:count]]


class DataSource(Protocol):
    """Where a task's data comes from."""

    def load(self, folder: Path | None) -> Any:
        """The data, read from `folder` where one is given and needed: what the task's kind takes, such as `Data`.

        It has `to(device)`, the same on another device, and `whole()`, the same with the validation part trained on.
        Where a task has a `glance` it also has `glance(count)`, the same with that many samples to be judged by.
        """

    def whereabouts(self, folder: Path | None) -> str:
        """In a few words, whether `load(folder)` finds the data on this machine."""


@dataclass(frozen=True)
class Digits:
    """The 1,797 handwritten digits that come with scikit-learn, 8x8 pixels: 1,000 train, 297 validate, 500 test.

    Example:
        >>> Digits().load(None).train.images.shape
        torch.Size([1000, 1, 8, 8])
    """

    def load(self, folder: Path | None) -> Data:
        """The digits; no folder is needed."""
        return _digits()

    def whereabouts(self, folder: Path | None) -> str:
        """They are always there."""
        return "at hand (part of scikit-learn)"


@functools.cache
def _digits() -> Data:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    everything = Split(
        torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1),  # 17 shades, 0 to 16
        torch.from_numpy(bunch.target).to(torch.int64),
    )
    rest, test = held_out(everything, 500)
    train, validation = held_out(rest, 297)
    return Data(train, validation, test, mean=(4.88,), std=(6.02,))


@dataclass(frozen=True)
class ImageSet:
    """A data set of the hub and how it is prepared.

    Attributes:
        table: What is stored there.
        held_out: Share of the training part that validates, between 0 and 1.
        mean: Mean of each channel on a scale from 0 to 1.
        std: Standard deviation of each channel on the same scale.
    """

    table: ImageTable
    held_out: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def load(self, folder: Path | None) -> Data:
        """The data, from `folder` where one is given, else from the hub or its cache on this machine.

        Args:
            folder: A folder laid out like the hub: `FOLDER/<hub id>/train-00000-of-00001.parquet` and so on. With
                a folder the network is never touched.

        Raises:
            LabError: The data is missing, damaged or not what it should be.
        """
        return _load(self, folder.resolve() if folder is not None else None)

    def whereabouts(self, folder: Path | None) -> str:
        """In the folder, in the cache of earlier downloads, or still on the hub."""
        if folder is not None:
            complete = all(self.table.files(part, folder) for part in ("train", "test"))
            return f"{'at hand' if complete else 'missing'} in {folder}"
        return "at hand (downloaded before)" if self.table.cached() else "on the hub (downloaded on first use)"


@functools.cache  # decoding CIFAR-10 takes seconds, and many runs share it
def _load(image_set: ImageSet, folder: Path | None) -> Data:
    published = Split(*load_table(image_set.table, "train", folder))
    count = round(image_set.held_out * len(published))
    if not 0 < count < len(published):
        raise LabError(f"{image_set.table.hub_id}: {len(published)} training images are too few to hold some out")
    train, validation = held_out(published, count)
    test = Split(*load_table(image_set.table, "test", folder))
    scaled_mean, scaled_std = (tuple(255 * value for value in values) for values in (image_set.mean, image_set.std))
    return Data(train, validation, test, scaled_mean, scaled_std)


MNIST = ImageSet(
    ImageTable("ylecun/mnist", image_column="image", label_column="label", shape=(1, 28, 28), classes=10),
    held_out=1 / 12,  # 55,000 to train, 5,000 to validate
    mean=(0.1307,),
    std=(0.3081,),
)

CIFAR10 = ImageSet(
    ImageTable("uoft-cs/cifar10", image_column="img", label_column="label", shape=(3, 32, 32), classes=10),
    held_out=1 / 10,  # 45,000 to train, 5,000 to validate
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)

CIFAR100 = ImageSet(
    ImageTable("uoft-cs/cifar100", image_column="img", label_column="fine_label", shape=(3, 32, 32), classes=100),
    held_out=1 / 10,
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
)

FASHION_MNIST = ImageSet(
    ImageTable(
        "zalando-datasets/fashion_mnist", image_column="image", label_column="label", shape=(1, 28, 28), classes=10
    ),
    held_out=1 / 12,
    mean=(0.2860,),
    std=(0.3530,),
)

TINY_IMAGENET = ImageSet(
    ImageTable(
        "zh-plus/tiny-imagenet",
        image_column="image",
        label_column="label",
        shape=(3, 64, 64),
        classes=200,
        test="valid",  # the only other part with labels; the papers test on it
        formats=("JPEG", "PNG"),
    ),
    held_out=1 / 10,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
