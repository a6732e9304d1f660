"""The tasks: a data set, a network for it, and how long it is trained."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from varigrad.lab.data import CIFAR10, MNIST, DataSource, Digits
from varigrad.lab.errors import unknown_name
from varigrad.lab.models.convnet import convnet
from varigrad.lab.models.mlp import mlp
from varigrad.lab.protocol import Protocol


@dataclass(frozen=True)
class Task:
    """Something to train: every optimizer gets the same.

    Attributes:
        name: What the command line calls it.
        summary: Data and network, in one line.
        data: Where the data comes from.
        model: Makes a freshly initialised network; draws from the global random generator.
        batch_size: Images per step.
        steps: Steps per run unless told otherwise.
        seeds: Number of runs per learning rate unless told otherwise.
        target: Test accuracy whose first reaching is counted in steps, between 0 and 1.
        pad: Augmentation: shifts of up to this many pixels, and mirror images; 0 for none.
        evaluations: How often a run is evaluated, evenly spaced, the last step included.
        threads: CPU threads unless told otherwise; None leaves the choice to PyTorch.
        protocol: How a paper trained it, if one did.
    """

    name: str
    summary: str
    data: DataSource
    model: Callable[[], nn.Module]
    batch_size: int
    steps: int
    seeds: int
    target: float
    pad: int = 0
    evaluations: int = 24
    threads: int | None = None
    protocol: Protocol | None = None


# The paper's RMSProp is TensorFlow's of the time: its eps of 1e-10 stands inside the root. Weights there start from a
# truncated normal distribution, and test images are normalised with their own batch's statistics: here they are not.
_SVGD_TABLE_1 = Protocol(
    "Li and Shu 2019, Table 1",
    starts=(0, 1600, 3600),
    rates=MappingProxyType(
        {
            "rmsprop": (0.001, 0.0005, 0.00005),
            "adam": (0.001, 0.00005, 0.00005),
            "sgd": (0.1, 0.05, 0.01),
            "svgd": (0.01, 0.005, 0.001),
        }
    ),
    arguments=MappingProxyType({"sgd": {"momentum": 0.0}, "rmsprop": {"alpha": 0.9, "eps": 1e-5}}),
    l1=1e-4,
)


_TASKS = (
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
)

TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _TASKS})


def find_task(name: str) -> Task:
    """The task called `name`.

    Raises:
        LabError: There is none; the message lists those there are.

    Example:
        >>> find_task("mnist-mlp").batch_size
        32
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]
