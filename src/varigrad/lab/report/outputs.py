"""The files a comparison leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from varigrad.lab.comparison import Comparison
from varigrad.lab.errors import LabError
from varigrad.lab.files import require_writable_directory, require_writable_file, write_bytes
from varigrad.lab.report.record import to_json


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
        from varigrad.lab.report.curves import rates_png, training_png
        from varigrad.lab.report.page import page

        contents[directory / "report.html"] = page(comparison, provenance).encode("utf-8")
        contents[directory / "curves.png"] = training_png(comparison)
        contents[directory / "learning-rates.png"] = rates_png(comparison)
        contents[directory / "comparison.json"] = record
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LabError(f"cannot make the directory {directory}: {error.strerror or error}") from error
    if json_file is not None:
        contents[json_file] = record
    for path, content in contents.items():
        write_bytes(path, content)
    return list(contents)
