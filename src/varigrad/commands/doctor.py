"""`varigrad doctor`: what works on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def doctor_command(
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder to look for data in.", envvar="VARIGRAD_DATA", metavar="FOLDER")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Write the findings as JSON instead.")] = False,
) -> None:
    """Tell what works on this machine: ways to run a step, devices, extras, data.

    The exit code is 1 if something is broken, else 0.
    What is not installed, or merely slow, is not broken.

    [bold]Examples[/bold]

    A sheet to read, each shortcoming with its remedy:

        [cyan]varigrad doctor[/cyan]

    For a report, or for another program:

        [cyan]varigrad doctor --json > doctor.json[/cyan]
    """
    from varigrad.lab.doctor import examine, is_broken, sheet, to_json

    sections = examine(data_dir)
    if json:
        print(to_json(sections))
    else:
        Console(highlight=False).print(sheet(sections))
    if is_broken(sections):
        raise typer.Exit(1)
