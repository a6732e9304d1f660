"""Tasks for a laptop."""

from __future__ import annotations

import functools

from varigrad.lab.data import CIFAR10, CIFAR100, MNIST, Digits
from varigrad.lab.models.convmixer import convmixer
from varigrad.lab.models.convnet import convnet
from varigrad.lab.models.mlp import mlp
from varigrad.lab.papers import svgd, vsgd
from varigrad.lab.protocol import Protocol
from varigrad.lab.tasks.task import Task

# The paper's RMSProp is TensorFlow's of the time: its eps of 1e-10 stands inside the root. Weights there start from a
# truncated normal distribution, and test images are normalised with their own batch's statistics: here they are not.
_SVGD_TABLE_1 = Protocol("Li and Shu 2019, Table 1", **svgd.MLP)

TASKS = (
    Task(
        "digits",
        "8x8 handwritten digits, MLP 64-64-32-10",
        Digits(),
        functools.partial(mlp, 64, 64, 32, 10),
        batch_size=32,
        steps=300,
        seeds=5,
        target=0.97,
        threads=1,  # a step is a few microseconds of arithmetic: handing it to a second thread costs more
    ),
    Task(
        "mnist-mlp",
        "MNIST, MLP 784-256-128-64-32-10 with batch norm",
        MNIST,
        functools.partial(mlp, 784, 256, 128, 64, 32, 10, batch_norm=True),
        batch_size=32,
        steps=6000,
        seeds=3,
        target=0.975,
        threads=1,
        protocol=_SVGD_TABLE_1,
    ),
    Task(
        "mnist-mlp4",
        "MNIST, MLP 784-256-128-32-10 with batch norm (the SVGD authors' program)",
        MNIST,
        functools.partial(mlp, 784, 256, 128, 32, 10, batch_norm=True),
        batch_size=32,
        steps=6000,
        seeds=3,
        target=0.975,
        threads=1,
        protocol=_SVGD_TABLE_1,
    ),
    Task(
        "mnist-logreg",
        "MNIST, one line 784-10",
        MNIST,
        functools.partial(mlp, 784, 10),
        batch_size=64,
        steps=938,
        seeds=5,
        target=0.92,
        threads=1,
    ),
    Task(
        "mnist-convmixer",
        "MNIST, ConvMixer-16/4",
        MNIST,
        functools.partial(convmixer, 16, 4, kernel=3, patch=2, classes=10, channels=1),
        batch_size=32,
        steps=vsgd.NOTEBOOK_STEPS,
        seeds=3,
        target=0.97,
        evaluations=10,
        threads=1,
    ),
    Task(
        "cifar10-cnn",
        "CIFAR-10, ConvNet 24-48-96-192 with batch norm",
        CIFAR10,
        functools.partial(convnet, 24, 48, 96, 192),
        batch_size=128,
        steps=1500,
        seeds=3,
        target=0.75,
        pad=4,
        evaluations=20,
    ),
    Task(
        "cifar100-convmixer-small",
        "CIFAR-100, ConvMixer-64/4",
        CIFAR100,
        functools.partial(convmixer, 64, 4, kernel=5, patch=4, classes=100),
        batch_size=128,
        steps=1000,
        seeds=3,
        target=0.25,
        pad=4,
        evaluations=10,
    ),
)
