"""The tasks of the study of AdaptiveVSGD: a character GPT, a convolutional and a fully connected network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from varigrad.lab.data import CIFAR10, MNIST
from varigrad.lab.models.mlp import mlp

CHANNELS_LAST = torch.channels_last  # faster on a CPU


class FlatConv(nn.Module):
    """A 3x3 convolution whose kernel is a matrix, so that Muon takes it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.Conv2d(inputs, outputs, 3, bias=False).weight.detach().flatten(1).clone())

    def forward(self, images: Tensor) -> Tensor:
        return functional.conv2d(
            images, self.weight.unflatten(1, (-1, 3, 3)).contiguous(memory_format=CHANNELS_LAST), padding=1
        )


def convnet() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 24), (24, 48), (48, 96)):
        layers += [FlatConv(inputs, outputs), nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.attention(self.before(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.between(x))))


class Gpt(nn.Module):
    def __init__(self, letters: int, width: int = 64, layers: int = 2, heads: int = 4, length: int = 64) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(letters, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, letters)
        for embedding in (self.token, self.position):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, text: Tensor) -> Tensor:
        x = self.token(text) + self.position.weight[: text.shape[1]]
        return self.head(self.last(self.blocks(x))).transpose(1, 2)


class Images:
    """Batches of images, flipped where that makes sense."""

    def __init__(self, source, folder: Path, shrink: int, flip: bool) -> None:
        data = source.load(folder)
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))

        def ready(split):
            images = torch.cat([(part.float() - mean) / std for part in split.images.split(5000)])
            images = functional.avg_pool2d(images, shrink) if shrink > 1 else images
            return images.contiguous(memory_format=CHANNELS_LAST), split.labels

        self.train, self.validation, self.test = map(ready, (data.train, data.validation, data.test))
        self.flip = flip

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        images, labels = self.train
        while True:
            for rows in torch.randperm(len(labels), generator=generator).split(size):
                if len(rows) == size:
                    batch = images[rows]
                    if self.flip:
                        flipped = torch.rand(size, generator=generator) < 0.5
                        batch = torch.where(flipped.view(-1, 1, 1, 1), batch.flip(-1), batch)
                    yield batch, labels[rows]

    def parts(self, name: str, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = getattr(self, name)
        yield from zip(images[:most].split(1000), labels[:most].split(1000), strict=True)


class Letters:
    """Windows of a text."""

    def __init__(self, folder: Path, length: int = 64) -> None:
        text = (folder / "war-and-peace" / "warpeace_input.txt").read_text("utf-8")
        alphabet = sorted(set(text))
        self.letters, self.length = len(alphabet), length
        codes = torch.tensor([alphabet.index(letter) for letter in text])
        first, second = int(0.9 * len(codes)), int(0.95 * len(codes))
        self.train, self.validation, self.test = codes[:first], codes[first:second], codes[second:]

    def _windows(self, codes: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        rows = codes[starts[:, None] + torch.arange(self.length + 1)]
        return rows[:, :-1], rows[:, 1:]

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            starts = torch.randint(len(self.train) - self.length, (size,), generator=generator)
            yield self._windows(self.train, starts)

    def parts(self, name: str, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        codes = getattr(self, name)
        starts = torch.linspace(0, len(codes) - self.length - 1, min(most // 10, 1000)).long()
        for some in starts.split(100):
            yield self._windows(codes, some)


@dataclass(frozen=True)
class Task:
    data: Callable[[Path], Images | Letters]
    model: Callable[[Images | Letters], nn.Module]
    batch: int
    steps: int
    middle: int = 0
    """The rung that the search for a learning rate begins at."""


TASKS = {
    "char": Task(Letters, lambda data: Gpt(data.letters), 16, 500),
    "cifar": Task(functools.partial(Images, CIFAR10, shrink=2, flip=True), lambda data: convnet(), 64, 500, 2),
    "mnist": Task(
        functools.partial(Images, MNIST, shrink=1, flip=False),
        lambda data: mlp(784, 256, 128, 64, 32, 10, batch_norm=True),
        32,
        1000,
    ),
}


@functools.cache
def data_of(task: str, folder: Path) -> Images | Letters:
    return TASKS[task].data(folder=folder)
