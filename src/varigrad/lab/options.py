"""What the command line's options mean, checked before anything starts."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import TypeVar

import torch

from varigrad.lab.errors import LabError
from varigrad.lab.optimizers import OPTIMIZERS, OptimizerRow, all_optimizers, find_optimizers
from varigrad.lab.schedules import drops
from varigrad.lab.tasks import Task
from varigrad.lab.training import SCHEDULES
from varigrad.lab.tuning.grids import find_grid
from varigrad.lab.tuning.space import Point, axes, halton

_MOST_SEEDS = 1000
_Item = TypeVar("_Item")


def parse_optimizers(text: str) -> tuple[OptimizerRow, ...]:
    """The optimizers of names and Python files separated by commas, or `all` but those in files.

    Raises:
        LabError: A name does not exist, stands there twice, or there is none.
    """
    names = list(all_optimizers()) if text.strip() == "all" else _split(text)
    if not names:
        raise LabError(
            f"--optimizers {text!r}: no names (accepted: all, or a comma-separated choice of {', '.join(OPTIMIZERS)}, "
            "FILE.py and FILE.py:NAME)"
        )
    rows = [row for name in names for row in find_optimizers(name)]
    _distinct(rows, [row.name for row in rows], "--optimizers", text)
    return _distinct(rows, [row.label for row in rows], "--optimizers", text)  # reports tell them apart by it


def parse_rates(text: str | None) -> tuple[float, ...] | None:
    """Learning rates, from numbers separated by commas; None (the ladders) for None.

    Raises:
        LabError: Something is not a finite number above 0, stands there twice, or there is none.
    """
    if text is None:
        return None
    accepted = "(accepted: numbers above 0, separated by commas, such as 0.001,0.01)"
    rates = []
    for part in _split(text):
        try:
            rate = float(part)
        except ValueError as error:
            raise LabError(f"--lr {part!r} is not a number {accepted}") from error
        if not (math.isfinite(rate) and rate > 0):
            raise LabError(f"--lr {part} is out of range {accepted}")
        rates.append(rate)
    if not rates:
        raise LabError(f"--lr {text!r}: no learning rate {accepted}")
    return _distinct(rates, rates, "--lr", text)


def parse_seeds(text: str | None, default: int) -> tuple[int, ...]:
    """Seeds: `"5"` means 0, 1, 2, 3, 4; `"0,7"` means those two.

    Args:
        text: What was given, or None.
        default: How many seeds to take for None.

    Raises:
        LabError: Something is not a whole number, below 0, or stands there twice; there is none, or there are too many.

    Example:
        >>> parse_seeds("3", default=5), parse_seeds("4,2", default=5)
        ((0, 1, 2), (4, 2))
    """
    if text is None:
        return tuple(range(default))
    accepted = f"(accepted: how many, 1 to {_MOST_SEEDS}, or a list of whole numbers from 0, such as 0,1,5)"
    try:
        numbers = [int(part) for part in _split(text)]
    except ValueError as error:
        raise LabError(f"--seeds {text!r}: not a whole number {accepted}") from error
    if not numbers:
        raise LabError(f"--seeds {text!r}: no seed {accepted}")
    if "," in text:
        if min(numbers) < 0 or max(numbers) >= 2**63 or len(numbers) > _MOST_SEEDS:
            raise LabError(f"--seeds {text} is out of range {accepted}")
        return _distinct(numbers, numbers, "--seeds", text)
    if not 1 <= numbers[0] <= _MOST_SEEDS:
        raise LabError(f"--seeds {numbers[0]} is out of range {accepted}")
    return tuple(range(numbers[0]))


def parse_count(text: str, option: str, highest: int) -> int:
    """A whole number from 1 to `highest`.

    Args:
        text: What was given.
        option: The option it was given to, for messages.
        highest: The highest number accepted.

    Raises:
        LabError: It is none.
    """
    accepted = f"(accepted: a whole number from 1 to {highest})"
    try:
        number = int(text)
    except ValueError as error:
        raise LabError(f"{option} {text!r} is not a whole number {accepted}") from error
    if not 1 <= number <= highest:
        raise LabError(f"{option} {number} is out of range {accepted}")
    return number


def with_glance(task: Task, text: str | None) -> Task:
    """The task with another number of samples for the evaluations before the last one.

    Args:
        task: The task.
        text: A number, `"all"`, or None for what the task has.

    Raises:
        LabError: It is neither.
    """
    if text is None:
        return task
    return dataclasses.replace(task, glance=None if text == "all" else parse_count(text, "--glance", 10**9))


def parse_workers(text: str | None, threads: int | None, device: torch.device) -> int:
    """How many runs are made at once.

    Args:
        text: What was given, or None.
        threads: CPU threads of a run; None if PyTorch chooses.
        device: Where runs are made.

    Raises:
        LabError: It is no whole number from 1.

    Example:
        >>> parse_workers("3", 1, torch.device("cpu")), parse_workers(None, None, torch.device("cpu"))
        (3, 1)
    """
    if text is not None:
        return parse_count(text, "--workers", 1024)
    if device.type == "cuda":
        return torch.cuda.device_count() if str(device) == "cuda" else 1
    # Runs of several threads want the machine for themselves; those of one share it evenly.
    return max(1, (os.cpu_count() or 1) // threads) if threads and device.type == "cpu" else 1


def parse_names(text: str, option: str) -> tuple[str, ...]:
    """Names separated by commas.

    Raises:
        LabError: There is none, or one stands there twice.
    """
    names = _split(text)
    if not names:
        raise LabError(f"{option} {text!r}: no names (accepted: one or more, separated by commas)")
    return _distinct(names, names, option, text)


def parse_share(text: str, option: str) -> float:
    """A number above 0 and up to 1.

    Raises:
        LabError: It is none.
    """
    accepted = "(accepted: a number above 0 and up to 1)"
    try:
        value = float(text)
    except ValueError as error:
        raise LabError(f"{option} {text!r} is not a number {accepted}") from error
    if not 0 < value <= 1:
        raise LabError(f"{option} {text} is out of range {accepted}")
    return value


def parse_steps(text: str | None, task: Task) -> int:
    """How many steps a run has; the task's number by default.

    Raises:
        LabError: It is no whole number from 1.
    """
    return task.steps if text is None else parse_count(text, "--steps", 10**9)


def parse_threads(text: str | None, tasks: Sequence[Task]) -> int | None:
    """CPU threads of a run: what was given, else the most that one of the tasks wants, else None.

    Raises:
        LabError: It is no whole number from 1.
    """
    if text is not None:
        return parse_count(text, "--threads", 1024)
    wanted = [task.threads for task in tasks]
    return None if None in wanted else max(filter(None, wanted))


def parse_points(
    rows: Sequence[OptimizerRow], grid: str | None, space: str, trials: str, study: str, studies: str = "1"
) -> list[dict[str, tuple[Point, ...]]]:
    """What every study tries with every optimizer: the points of a paper's grid, or those of a Halton sequence.

    Raises:
        LabError: A name or a number is wrong, or the paper has not tried an optimizer.
    """
    count = parse_count(trials, "--trials", 10_000)
    if not study.isdecimal():
        raise LabError(f"--study {study!r} is not a whole number (accepted: 0 or above)")
    repetitions = parse_count(studies, "--studies", 100)
    if grid is not None:
        if repetitions > 1:
            raise LabError(
                f"--studies {studies}: a grid has no other points to try again with (accepted: 1 with --grid)"
            )
        found = find_grid(grid)
        return [{row.name: found.of(row) for row in rows}]
    names = _split(space)
    return [
        {row.name: halton(axes(row, names), count, int(study) + number) for row in rows}
        for number in range(repetitions)
    ]


def parse_weight_decay(text: str) -> float:
    """A weight decay: a finite number, 0 or more.

    Raises:
        LabError: It is none.
    """
    accepted = "(accepted: a finite number, 0 or more)"
    try:
        value = float(text)
    except ValueError as error:
        raise LabError(f"--weight-decay {text!r} is not a number {accepted}") from error
    if not (math.isfinite(value) and value >= 0):
        raise LabError(f"--weight-decay {text} is out of range {accepted}")
    return value


def require_schedule(name: str) -> str:
    """A schedule that exists.

    Raises:
        LabError: There is none of that name.
    """
    if name not in SCHEDULES:
        try:
            drops(name)
        except LabError as error:
            raise LabError(f"--{error}") from None
    return name


def by_protocol(rows: Sequence[OptimizerRow], task: Task) -> tuple[OptimizerRow, ...]:
    """The optimizers as the paper of the task's protocol has them.

    Raises:
        LabError: No paper is known for the task, or it does not have an optimizer.
    """
    if task.protocol is None:
        raise LabError(f"--schedule paper: no paper is known for {task.name} (accepted: cosine, constant)")
    return tuple(task.protocol.row(row) for row in rows)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _distinct(items: Sequence[_Item], keys: Sequence[object], option: str, text: str) -> tuple[_Item, ...]:
    for index, key in enumerate(keys):
        if key in keys[:index]:
            raise LabError(f"{option} {text}: {key} stands there twice (accepted: each once)")
    return tuple(items)
