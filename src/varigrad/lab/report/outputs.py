"""The files a comparison leaves behind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path

from varigrad.lab.comparison import Comparison
from varigrad.lab.errors import LabError
from varigrad.lab.files import require_writable_directory, require_writable_file, write_bytes
from varigrad.lab.report import cells, long
from varigrad.lab.report.record import to_json
from varigrad.lab.report.tables import Table


def require_writable(json_file: Path | None, directory: Path | None) -> None:
    """Find out, before training starts, whether `write` would succeed.

    Raises:
        LabError: It would not.
    """
    if json_file is not None:
        require_writable_file(json_file, "--json")
    if directory is not None:
        require_writable_directory(directory, "--out")


def write(
    comparison: Comparison, provenance: Mapping[str, str], json_file: Path | None, directory: Path | None
) -> list[Path]:
    """Write what was asked for, and return the paths in the order of their interest.

    Everything is rendered before the first file is written, and every file is whole or not there.

    Args:
        comparison: What was found.
        provenance: Where it comes from.
        json_file: Where to put the JSON, if anywhere.
        directory: Where to put the page, the pictures and the JSON, if anywhere; made if it does not exist.

    Raises:
        LabError: Something cannot be written.
    """
    record = to_json(comparison, provenance).encode("utf-8")
    contents: dict[Path, bytes] = {}
    if directory is not None:
        # Matplotlib and Plotly take a second to import; nobody who asked for no picture shall wait for them.
        from varigrad.lab.report import curves, pictures
        from varigrad.lab.report.page import page

        found = {"report.html": page(comparison, provenance).encode("utf-8")}
        for name, figure in (("curves", curves.training(comparison)), ("learning-rates", curves.rates(comparison))):
            found |= {f"{name}.{kind}": pictures.drawn(figure, kind) for kind in pictures.FORMATS}
        table = Table(astuple(cells.headings(comparison)), [astuple(row) for row in cells.rows(comparison)])
        found |= {"table.csv": table.csv().encode("utf-8"), "table.tex": table.latex().encode("utf-8")}
        found |= {"runs.csv": long.of_comparison(comparison).csv().encode("utf-8"), "comparison.json": record}
        contents |= {directory / name: content for name, content in found.items()}
        make_directory(directory)
    if json_file is not None:
        contents[json_file] = record
    for path, content in contents.items():
        write_bytes(path, content)
    return list(contents)


def file_name(name: str) -> str:
    """What a file is called after a task, which may itself be named after a file.

    Example:
        >>> file_name("my/spirals.py:easy")
        'my-spirals.py-easy'
    """
    return re.sub(r"[^\w.=-]+", "-", name).strip("-.")


def make_directory(directory: Path) -> None:
    """Make a directory and those above it, where they are not there.

    Raises:
        LabError: It cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"cannot make the directory {directory}: {error.strerror or error}") from error
