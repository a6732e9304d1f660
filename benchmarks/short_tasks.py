"""Seven small tasks with real data on which optimizers are compared: seconds a run on one thread of a processor.

    varigrad tune --task benchmarks/short_tasks.py:cifar10-short --optimizers adaptive-vsgd,adamw --data-dir FOLDER

They are tasks of the lab, given to it as a file. What they have in common: a batch is small, a run a few hundred steps,
and the evaluations before the last look at a part of the data only.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

from torch.nn import functional

from varigrad.lab.data import CIFAR10, CIFAR100, MNIST, Data, DataSource, Digits, Split
from varigrad.lab.kinds.text import NextSymbol
from varigrad.lab.models.char_lstm import CharLSTM
from varigrad.lab.models.convmixer import convmixer
from varigrad.lab.models.convnet import convnet
from varigrad.lab.models.gpt import GPT
from varigrad.lab.models.mlp import mlp
from varigrad.lab.tasks.task import Task
from varigrad.lab.text_data import WAR_AND_PEACE

ROWS = 16


@dataclass(frozen=True)
class Halved:
    """The images of a source at half their height and width: every pixel the mean of four."""

    source: DataSource

    def load(self, folder: Path | None) -> Data:
        """The data of the source, made smaller."""
        return _halved(self.source, folder)

    def whereabouts(self, folder: Path | None) -> str:
        """Where the source's data is."""
        return self.source.whereabouts(folder)


@functools.cache
def _halved(source: DataSource, folder: Path | None) -> Data:
    data = source.load(folder)

    def halved(split: Split) -> Split:
        return Split(functional.avg_pool2d(split.images.float(), 2).round().byte(), split.labels)

    return dataclasses.replace(
        data, train=halved(data.train), validation=halved(data.validation), test=halved(data.test)
    )


def short(name: str, summary: str, data: DataSource, model, **settings) -> Task:
    """A task of one thread that is looked at twenty times in a run."""
    return Task(name, summary, data, model, **{"seeds": 10, "evaluations": 20, "threads": 1, **settings})


TASKS = (
    short(
        "digits-short",
        "8x8 handwritten digits, MLP 64-64-32-10",
        Digits(),
        functools.partial(mlp, 64, 64, 32, 10),
        batch_size=32,
        steps=300,
        target=0.96,
    ),
    short(
        "logreg-short",
        "MNIST, one line 784-10",
        MNIST,
        functools.partial(mlp, 784, 10),
        batch_size=64,
        steps=600,
        target=0.915,
    ),
    short(
        "mnist-short",
        "MNIST, MLP 784-256-128-64-32-10 with batch norm",
        MNIST,
        functools.partial(mlp, 784, 256, 128, 64, 32, 10, batch_norm=True),
        batch_size=32,
        steps=800,
        target=0.96,
    ),
    short(
        "cifar10-short",
        "CIFAR-10 at 16x16, ConvNet 24-48-96 with batch norm",
        Halved(CIFAR10),
        functools.partial(convnet, 24, 48, 96),
        batch_size=64,
        steps=400,
        target=0.55,
        pad=1,
        glance=1000,
    ),
    short(
        "cifar100-short",
        "CIFAR-100, ConvMixer-32/3",
        CIFAR100,
        functools.partial(convmixer, 32, 3, kernel=5, patch=4, classes=100),
        batch_size=64,
        steps=300,
        target=0.12,
        pad=4,
        glance=1000,
    ),
    short(
        "gpt-short",
        "War and Peace by characters, GPT of 2 blocks of 64",
        WAR_AND_PEACE,
        functools.partial(GPT, WAR_AND_PEACE.symbols, context=64, width=64, depth=2),
        batch_size=ROWS,
        steps=300,
        target=0.35,
        glance=10_000,
        kind=NextSymbol(64, consecutive=False),
    ),
    short(
        "lstm-short",
        "War and Peace by characters, an LSTM layer of 96",
        dataclasses.replace(WAR_AND_PEACE, rows=ROWS),
        functools.partial(CharLSTM, WAR_AND_PEACE.symbols, rows=ROWS, width=96, layers=1, dropout=0.0),
        batch_size=ROWS,
        steps=400,
        target=0.35,
        glance=10_000,
        kind=NextSymbol(32, consecutive=True),
    ),
)
