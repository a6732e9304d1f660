"""`varigrad list`: the tasks and the optimizers there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text


def list_command(
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder to look for data in.", envvar="VARIGRAD_DATA", metavar="FOLDER")
    ] = None,
) -> None:
    """Show the tasks and the optimizers, one line each.

    Of a task its data, its network, and where the data is.
    Of an optimizer what it does, its paper, and where in it.
    The names are those that the other commands take.

    [bold]Examples[/bold]

    What can be trained without a network, with the data in a folder:

        [cyan]varigrad list --data-dir ~/data[/cyan]
    """
    from varigrad.lab.optimizers import all_optimizers
    from varigrad.lab.tasks import all_tasks

    console = Console(highlight=False)

    def show(title: str, lines: list[tuple[str, str, str]]) -> None:
        names, summaries, _ = (max(map(len, column)) for column in zip(*lines, strict=True))
        console.print(Text(title, style="bold"))
        for name, summary, remark in lines:
            line = Text(f"  {name:<{names}}  {summary:<{summaries}}  ")
            console.print(line.append(remark, style="dim"), soft_wrap=True)

    show("Tasks", [(task.name, task.summary, task.data.whereabouts(data_dir)) for task in all_tasks().values()])
    show("Optimizers", [(row.name, row.summary, row.source) for row in all_optimizers().values()])
