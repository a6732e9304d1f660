"""`varigrad reproduce`: the papers' tables and figures, made again."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from varigrad.commands import shared


def reproduce_command(
    item: Annotated[
        str | None,
        typer.Argument(
            help="Which table or figure, such as vsgd/table1; without it all are listed.", metavar="PAPER/ITEM"
        ),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            help="[bold]full[/bold] (as the paper ran it), [bold]tenth[/bold] (a tenth of the steps), "
            "[bold]smoke[/bold] (a few steps: whether it runs).",
            metavar="NAME",
        ),
    ] = "tenth",
    seeds: Annotated[
        str | None,
        typer.Option(
            help="How many runs of each cell (seeds 0, 1, ...), or a list of seeds.",
            metavar="N|LIST",
            show_default="the item's in full, else 3 or 2",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="[bold]auto[/bold] (a GPU if there is one), cpu, cuda, cuda:1, mps.", metavar="NAME")
    ] = "auto",
    threads: Annotated[
        str | None, typer.Option(help="CPU threads of a run.", show_default="1 on a CPU", metavar="N")
    ] = None,
    autocast: Annotated[bool, shared.AUTOCAST] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with the data; also VARIGRAD_DATA.", metavar="FOLDER")
    ] = None,
    store: Annotated[Path, shared.STORE] = shared.DEFAULT_STORE,
    workers: Annotated[str | None, shared.WORKERS] = None,
    engine: Annotated[str, shared.ENGINE] = "local",
    out: Annotated[
        Path | None,
        typer.Option(help="Write a page of HTML, pictures, tables and the JSON into this directory.", metavar="DIR"),
    ] = None,
) -> None:
    """Make the papers' tables and figures again: the paper's number, ours, and whether they agree.

    [bold]Examples[/bold]

    All there are:

        [cyan]varigrad reproduce[/cyan]

    A figure of closed forms, in minutes:

        [cyan]varigrad reproduce dissecting-adam/fig2 --scale full[/cyan]

    A table at a tenth of its steps, with MNIST from a folder:

        [cyan]varigrad reproduce svgd/table1 --data-dir ~/data[/cyan]
    """
    from varigrad.lab import machine, options
    from varigrad.lab.engines.plan import Plan
    from varigrad.lab.files import require_writable_directory
    from varigrad.lab.reproduce import command, display, run

    results = Console(highlight=False)
    if item is None:
        results.print(display.listing(list(run.PAPERS.values())))
        return
    run.find_items(item)
    chosen = command.require_scale(scale)
    options.parse_seeds(seeds, 1)
    where = machine.find_device(device)
    thread_count = options.parse_count(threads, "--threads", 1024) if threads else 1 if where.type == "cpu" else None
    if out is not None:
        require_writable_directory(out, "--out")
    plan = Plan.parse(engine, store, workers, thread_count, where)
    with machine.cpu_threads(thread_count):
        command.reproduce(
            item,
            chosen,
            autocast,
            lambda default: options.parse_seeds(seeds, default),
            plan,
            shared.data_folder(data_dir),
            machine.provenance(shlex.join(["varigrad", *sys.argv[1:]]), where),
            Console(stderr=True, highlight=False),
            results,
            out,
        )
