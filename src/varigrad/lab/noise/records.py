"""Reading `noise.jsonl`, which `varigrad.writers.JSONLines` wrote."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from varigrad.lab.errors import LabError
from varigrad.record import COLUMNS, NoiseRecord

__all__ = ["read"]


def read(run: Path) -> list[NoiseRecord]:
    """The records of a run, in the order of their steps; where a resumed run repeated a step, the later one.

    A line that a killed run has left unfinished is skipped.

    Args:
        run: The folder of the run, or the file itself.

    Raises:
        LabError: There is no such file, it cannot be read, it has no record, or it is not what a monitor writes.
    """
    path = run / "noise.jsonl" if run.is_dir() else run
    if not path.is_file():
        raise LabError(
            f"{run}: no noise.jsonl there; a run writes it with NoiseMonitor(optimizer, model, writers=FOLDER)"
        )
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"cannot read {path}: {error}") from error
    found: dict[int, NoiseRecord] = {}
    for number, line in enumerate(lines, 1):
        try:
            parsed = json.loads(line)
        except ValueError:
            continue
        try:
            record = _record(parsed)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LabError(f"{path}, line {number}: not what a NoiseMonitor writes ({error!r})") from error
        found[record.step] = record
    if not found:
        raise LabError(f"{path}: no record in it; a run shorter than the monitor's `every` steps leaves none")
    return [found[step] for step in sorted(found)]


def _record(line: dict[str, Any]) -> NoiseRecord:
    layers = {
        str(layer): {name: math.nan if row[name] is None else float(row[name]) for name in COLUMNS}
        for layer, row in line["layers"].items()
    }
    batch_size = line["batch_size"]
    size = None if batch_size is None else float(batch_size)
    return NoiseRecord(int(line["step"]), str(line["source"]), str(line["optimizer"]), size, layers)
