"""Optimizers of the user's own: in a Python file, or in an installed package that declares them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from varigrad.lab import own
from varigrad.lab.errors import LabError, unknown_name
from varigrad.lab.ladder import ladder, require_rungs
from varigrad.lab.optimizer_row import OptimizerRow, takes

ENTRY_POINTS = "varigrad.optimizers"
NORMALISED = ladder(1e-4, 1e-1)  # rates tried first with optimizers whose steps do not grow with the gradient


def optimizers_from_file(name: str) -> tuple[OptimizerRow, ...]:
    """The optimizers in a Python file.

    `FILE.py` stands for all its rows, in their order, lists of rows included; in a file without rows it stands for
    all subclasses of `torch.optim.Optimizer` that it defines, but for those whose names begin with an underscore.
    `FILE.py:NAME` stands for the row of that name, or for the row, list of rows or class that the file has under it.

    Raises:
        LabError: There is no such file, it fails, it has no such optimizer, or one cannot be used.
    """
    path, wanted = own.split(name, "--optimizers")
    module = own.module(path, "an optimizer")
    things = {key: _rows(thing) for key, thing in vars(module).items()}
    rows = _distinct(path, [row for key, thing in things.items() if thing for row in thing])
    classes = {
        key: OptimizerRow(kind.__name__, kind, _summary(kind), str(path), NORMALISED)
        for key, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    }
    if not wanted:
        own_classes = [
            row for row in classes.values() if row.optimizer.__module__ == module.__name__ and row.name[0] != "_"
        ]
        chosen = list(rows.values()) or list({row.name: row for row in own_classes}.values())
        if not chosen:
            raise LabError(
                f"{path} has no optimizer; define a subclass of torch.optim.Optimizer at its top level, or rows: "
                "row = varigrad.lab.optimizers.OptimizerRow(...)"
            )
    elif wanted in rows:
        chosen = [rows[wanted]]
    elif things.get(wanted):
        chosen = list(things[wanted])
    elif wanted in classes:
        chosen = [dataclasses.replace(classes[wanted], name=wanted)]
    else:
        listed = [key for key, thing in things.items() if thing]
        raise unknown_name(f"optimizer of {path}", wanted, dict.fromkeys([*rows, *listed, *classes]))
    # Under this name other processes find it, and it is no other file's optimizer of the same name.
    return tuple(_usable(dataclasses.replace(row, name=f"{path}:{row.name}")) for row in chosen)


def installed_optimizers(taken: Iterable[str]) -> Mapping[str, OptimizerRow]:
    """Those of installed packages: entry points of the group `varigrad.optimizers`, each a row or several, or a class.

    Args:
        taken: Names they must not have.

    Raises:
        LabError: An entry point fails or is no optimizer, or a name is there twice.
    """
    found: dict[str, OptimizerRow] = {}
    for origin, thing in own.declared(ENTRY_POINTS):
        if isinstance(thing, type) and issubclass(thing, torch.optim.Optimizer):
            thing = OptimizerRow(thing.__name__, thing, _summary(thing), thing.__module__, NORMALISED)
        if not isinstance(thing, OptimizerRow):
            raise LabError(
                f"{origin} is {type(thing).__name__}, expected an OptimizerRow, a subclass of torch.optim.Optimizer, "
                "or a list of them"
            )
        if thing.name in found or thing.name in set(taken):
            raise LabError(f"{origin}: there is an optimizer called {thing.name} already; give it another name")
        found[thing.name] = _usable(thing)
    return found


def _rows(thing: object) -> tuple[OptimizerRow, ...]:
    if isinstance(thing, OptimizerRow):
        return (thing,)
    several = isinstance(thing, (list, tuple)) and thing and all(isinstance(row, OptimizerRow) for row in thing)
    return tuple(thing) if several else ()  # type: ignore[arg-type]


def _distinct(path: Path, rows: Iterable[OptimizerRow]) -> dict[str, OptimizerRow]:
    found: dict[str, OptimizerRow] = {}
    for row in rows:
        if found.setdefault(row.name, row) is not row:
            raise LabError(f"{path} has two optimizers called {row.name}; give one another name")
    return found


def _summary(kind: type) -> str:
    lines = (kind.__doc__ or "").strip().splitlines()
    return lines[0].rstrip(".") if lines else kind.__name__


def _usable(row: OptimizerRow) -> OptimizerRow:
    if not takes(row.optimizer, "lr"):
        raise LabError(f"{row.name}: {row.class_name} takes no keyword lr, which every optimizer of the lab is given")
    try:
        require_rungs(row.rates)
    except ValueError as error:
        raise LabError(f"{row.name}: rates {row.rates!r}: {error}") from error
    try:
        _plain(dict(row.arguments))
    except TypeError as error:
        raise LabError(f"{row.name}: arguments {dict(row.arguments)!r}: {error}") from error
    return row


def _plain(value: Any) -> None:
    """Arguments are part of the key of a run, and come back from a file."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is no text")
            _plain(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _plain(item)
    elif not (value is None or isinstance(value, (bool, int, float, str))):
        raise TypeError(
            f"{type(value).__name__} cannot be written as JSON (accepted: numbers, texts, True, False, None, and lists "
            "and dictionaries of them)"
        )
