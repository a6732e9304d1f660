"""What several commands have in common."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from varigrad.lab.errors import LabError

STORE = typer.Option(
    help="Folder that keeps the runs. Any number of commands, on any number of machines, may share one.",
    envvar="VARIGRAD_STORE",
    metavar="FOLDER",
)
DEFAULT_STORE = Path("varigrad-runs")
WORKERS = typer.Option(
    help="How many runs are made at once, each in a process of its own. Times are truest with 1.",
    show_default="one for each GPU, or as many as the task's threads leave room for",
    metavar="N",
)
ENGINE = typer.Option(
    help="[bold]local[/bold] (this machine) or [bold]ray[/bold] (the cluster that RAY_ADDRESS names, else one here).",
    metavar="NAME",
)

GLANCE = typer.Option(
    help="Samples of the validation and the test part that all evaluations but the last one look at, or "
    "[bold]all[/bold]: where judging takes longer than training.",
    show_default="the task's, which is all",
    metavar="N",
)
AUTOCAST = typer.Option(
    "--autocast",
    help="Compute in bfloat16 what torch.autocast does: faster where the processor or the GPU has it; another run.",
)


def data_folder(given: Path | None) -> Path | None:
    """The folder with data: what was given, or what the environment says.

    Raises:
        LabError: What was given is no folder.
    """
    if given is not None and not given.is_dir():
        raise LabError(f"--data-dir {given}: no such folder; give the folder that holds ylecun/mnist and the like")
    from_environment = os.environ.get("VARIGRAD_DATA")
    return given or (Path(from_environment) if from_environment else None)
