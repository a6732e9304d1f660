"""`varigrad noise`: how noisy a training run was."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from varigrad.version import __version__


def noise_command(
    run: Annotated[
        Path, typer.Argument(help="The folder that a NoiseMonitor has written noise.jsonl into.", metavar="RUN_DIR")
    ],
    html: Annotated[Path | None, typer.Option("--html", help="Write a page of HTML.", metavar="FILE")] = None,
    columns: Annotated[
        str, typer.Option(help="The most stretches that the run is cut into for the heat map.", metavar="N")
    ] = "40",
) -> None:
    """Show how noisy a training run was: signal against noise per layer over time, and whether its batch was right.

    The run needs a monitor: [cyan]varigrad.NoiseMonitor(optimizer, model, batch_size=32, writers=RUN_DIR)[/cyan].

    [bold]Examples[/bold]

        [cyan]varigrad noise runs/first[/cyan]

        [cyan]varigrad noise runs/first --html noise.html[/cyan]
    """
    from varigrad.lab import options
    from varigrad.lab.files import require_writable_file, write_text
    from varigrad.lab.noise.display import display
    from varigrad.lab.noise.findings import findings
    from varigrad.lab.noise.records import read

    most = options.parse_count(columns, "--columns", 1000)
    if html is not None:
        require_writable_file(html, "--html")
    found = findings(read(run), most)
    console = Console(highlight=False)
    console.print(display(found, console.width))
    if html is not None:
        from varigrad.lab.noise.page import page

        made = {"command": shlex.join(["varigrad", *sys.argv[1:]]), "varigrad": __version__}
        write_text(html, page(found, run.resolve().name, made))
        console.print(f"Wrote {html}", soft_wrap=True, markup=False)
