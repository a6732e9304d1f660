"""What a paper's tables and figures are made of: data, and nothing that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

TEST_ERROR = "test error (%)"
TEST_ACCURACY = "test accuracy (%)"
TEST_LOSS = "test loss"
TRAIN_LOSS = "training loss"


@dataclass(frozen=True)
class Setting:
    """Hyperparameters that a cell may have been run with.

    Attributes:
        lr: The learning rate.
        weight_decay: As the optimizer understands it.
        arguments: What is set besides.
    """

    lr: float
    weight_decay: float = 0.0
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Cell:
    """One number of a table, or one curve of a figure, and what it takes to have it again.

    Attributes:
        key: Its name in the item: row and column.
        task: The name of the task.
        optimizer: The name of the optimizer.
        settings: Its hyperparameters; several where the paper chose among them and does not say which it took.
        schedule: The learning rate's course in a run in full; `"paper"` for that of the task's protocol.
        steps: Steps of a run in full.
        metric: What is measured.
        best: Whether the best value during the run counts and not the last one.
        number: The paper's number; None where it has a curve only.
        std: The paper's standard deviation over its seeds, where it gives one.
        seeds: How many seeds the paper's number is a mean over; 1 where it does not say.
        batch_size: Where it is not the task's.
    """

    key: str
    task: str
    optimizer: str
    settings: tuple[Setting, ...]
    schedule: str
    steps: int
    metric: str
    best: bool = False
    number: float | None = None
    std: float | None = None
    seeds: int = 1


@dataclass(frozen=True)
class Claim:
    """That one cell is better than another, as the paper says in words or shows in a picture.

    Attributes:
        text: The claim.
        better: Key of the cell that is said to be better, or at least as good.
        worse: Key of the other.
        metric: What decides; the better cell's own where it is None.
        strict: Whether it must be better, and not merely as good.
    """

    text: str
    better: str
    worse: str
    metric: str | None = None
    strict: bool = True


@dataclass(frozen=True)
class Item:
    """A table, a figure, or an experiment that is told in the text.

    Attributes:
        name: What the command line calls it, such as `"table1"`.
        title: What it shows.
        cells: What has to be trained.
        claims: What the cells are said to show.
        computed: Name of the computation that makes it, where nothing has to be trained.
        note: What a reader must know; for an item with neither cells nor a computation, why there is nothing to run.
        seeds: Seeds of a run in full.
    """

    name: str
    title: str
    cells: tuple[Cell, ...] = ()
    claims: tuple[Claim, ...] = ()
    computed: str | None = None
    note: str = ""
    seeds: int = 3


@dataclass(frozen=True)
class Paper:
    """A paper.

    Attributes:
        name: What the command line calls it.
        reference: Authors, year and title.
        items: All its tables and figures, in their order, and further experiments.
    """

    name: str
    reference: str
    items: tuple[Item, ...]
