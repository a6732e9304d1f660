"""`varigrad runs`: what a store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from varigrad.commands.shared import DEFAULT_STORE, STORE
from varigrad.lab.errors import LabError

_STATUSES = ("done", "running", "interrupted", "failed")


def runs_command(
    keys: Annotated[
        list[str] | None, typer.Argument(help="Beginnings of keys; without any, all runs.", show_default=False)
    ] = None,
    store: Annotated[Path, STORE] = DEFAULT_STORE,
    task: Annotated[str | None, typer.Option(help="Only those of this task.", metavar="NAME")] = None,
    optimizer: Annotated[str | None, typer.Option(help="Only those of this optimizer.", metavar="NAME")] = None,
    status: Annotated[
        str | None, typer.Option(help=f"Only those that are {', '.join(_STATUSES[:-1])} or failed.", metavar="STATUS")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the runs that are listed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    pack: Annotated[
        Path | None, typer.Option(help="Write those of them that are done into one file.", metavar="FILE.zip")
    ] = None,
    unpack: Annotated[
        Path | None,
        typer.Option(
            help="Put the runs of such a file into the store, where they are not there yet.", metavar="FILE.zip"
        ),
    ] = None,
) -> None:
    """List, filter and remove the runs of a store, and carry them from machine to machine.

    [bold]Examples[/bold]

    What there is, and what went wrong:

        [cyan]varigrad runs[/cyan]
        [cyan]varigrad runs --status failed[/cyan]

    Forget all runs of an optimizer:

        [cyan]varigrad runs --optimizer sgd --remove[/cyan]

    Carry the finished runs of a task to another machine, and take them in there:

        [cyan]varigrad runs --task digits --pack runs.zip[/cyan]
        [cyan]varigrad runs --unpack runs.zip[/cyan]
    """
    from varigrad.lab.files import require_writable_file
    from varigrad.lab.store import pack as packing
    from varigrad.lab.store.folder import Store

    filters = {"KEYS": keys, "--task": task, "--optimizer": optimizer, "--status": status}
    others = {"--pack": pack, "--remove": remove}
    given = [name for name, value in ({**filters, **others} if unpack else others).items() if value]
    if unpack and given:
        raise LabError(f"--unpack {unpack}: takes all runs of the file, it does not go with {', '.join(given)}")
    if len(given) > 1:
        raise LabError(f"{' and '.join(given)} do not go together: pack first, then remove")
    if unpack:
        _unpack(store, unpack)
        return
    if status is not None and status not in _STATUSES:
        raise LabError(f"--status {status!r} does not exist (accepted: {', '.join(_STATUSES)})")
    if not (store / "store.json").exists():
        raise LabError(f"--store {store}: no store there; varigrad compare makes one")
    console = Console(highlight=False)
    kept = Store(store, tell=lambda line: Console(stderr=True, highlight=False).print(Text(line), soft_wrap=True))
    entries = [
        entry
        for entry in kept.entries()
        if (not keys or any(entry.specification.key.startswith(key) for key in keys))
        and task in (None, entry.specification.task)
        and optimizer in (None, entry.specification.optimizer)
        and status in (None, entry.status)
    ]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in ("key", "task", "optimizer", "lr", "decay", "seed", "steps", "status", "accuracy"):
        words = heading in ("task", "optimizer")  # may take two lines; the rest may not
        left = heading in ("key", "task", "optimizer", "status")
        table.add_column(heading, justify="left" if left else "right", no_wrap=not words, overflow="fold")
    for entry in entries:
        spec, run = entry.specification, entry.run
        accuracy = "" if run is None else "diverged" if run.diverged else f"{run.final.test_accuracy:.2%}"
        settings = (f"{spec.lr:g}", f"{spec.settings['weight_decay']:g}", str(spec.seed), str(spec.settings["steps"]))
        table.add_row(*map(Text, (spec.key[:12], spec.task, spec.optimizer, *settings, entry.status, accuracy)))
    if entries:
        console.print(table)
    count = "1 run" if len(entries) == 1 else f"{len(entries)} runs"
    aside = len(kept.damaged())
    console.print(
        Text(f"{count} in {store}" + (f"; {aside} damaged, set aside in {store / 'damaged'}" if aside else "")),
        soft_wrap=True,
    )
    if pack:
        require_writable_file(pack, "--pack")
        done = packing.pack(entries, pack)
        console.print(Text(f"Packed {done} that {'is' if done == 1 else 'are'} done into {pack}"), soft_wrap=True)
    if remove and entries:
        if not yes and not typer.confirm(f"Delete {count}?"):
            raise typer.Abort
        for entry in entries:
            kept.remove(entry)
        console.print(Text(f"Deleted {count}"))


def _unpack(folder: Path, file: Path) -> None:
    from varigrad.lab.store.folder import Store
    from varigrad.lab.store.pack import unpack

    def tell(line: str) -> None:
        Console(stderr=True, highlight=False).print(Text(line), soft_wrap=True)

    if not file.is_file():
        raise LabError(f"--unpack {file}: no such file; give a file that --pack wrote")
    found = unpack(Store(folder, tell=tell), file, tell)
    counts = f"{len(found.added)} unpacked, {len(found.there)} there already, {len(found.left)} left out"
    Console(highlight=False).print(Text(f"{counts}: {folder}"), soft_wrap=True)
