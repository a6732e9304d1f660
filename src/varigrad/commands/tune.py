"""`varigrad tune`: every optimizer tuned with the same number of trials."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from varigrad.commands import shared
from varigrad.lab.errors import LabError

if TYPE_CHECKING:
    from varigrad.lab.data import Data
    from varigrad.lab.display import Display
    from varigrad.lab.tasks import Task


def _at_hand(data: Data) -> Callable[[Task], Data]:
    return lambda task: data


def _told_to(display: Display) -> dict[str, Any]:
    return {
        "on_progress": display.show_progress,
        "on_tuned": display.show_tuned,
        "on_plan": display.show_plan,
        "on_run": display.show_run,
    }


def tune_command(
    task: Annotated[
        str, typer.Option(help="What to train, one or several separated by commas.", metavar="NAMES")
    ] = "digits",
    optimizers: Annotated[
        str,
        typer.Option(
            help="Which optimizers, separated by commas, or [bold]all[/bold]; those in FILE.py, or FILE.py:NAME, are "
            "of your own.",
            metavar="NAMES",
        ),
    ] = "vsgd,adamw,sgd",
    trials: Annotated[str, typer.Option(help="Trials of every optimizer.", metavar="N")] = "16",
    space: Annotated[
        str,
        typer.Option(
            help="What is tuned: [bold]lr[/bold], over three decades, or [bold]lr,weight-decay[/bold].", metavar="AXES"
        ),
    ] = "lr",
    study: Annotated[
        str, typer.Option(help="Which scrambling of the Halton sequence: another study, other points.", metavar="N")
    ] = "0",
    studies: Annotated[
        str,
        typer.Option(
            help="How many studies, each with trials and a winner of its own: scores are medians over them.",
            metavar="K",
        ),
    ] = "1",
    grid: Annotated[
        str | None,
        typer.Option(help="Try what a paper tried instead, with as many trials as it had.", metavar="PAPER/ITEM"),
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="How many runs of every winner (seeds 0, 1, ...), or a list.", metavar="N|LIST")
    ] = "10",
    target: Annotated[
        str | None,
        typer.Option(
            help="Test accuracy whose reaching is timed, 0 to 1; or [bold]procedure[/bold]: what the best of sgd, adam "
            "and adamw reaches with four times as many trials, median of 10 runs.",
            show_default="the task's",
            metavar="SHARE",
        ),
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="Optimizer steps per run.", show_default="the task's", metavar="N")
    ] = None,
    glance: Annotated[str | None, shared.GLANCE] = None,
    autocast: Annotated[bool, shared.AUTOCAST] = False,
    schedule: Annotated[str, typer.Option(help="As for varigrad compare.", metavar="NAME")] = "cosine",
    device: Annotated[str, typer.Option(help="As for varigrad compare.", metavar="NAME")] = "auto",
    threads: Annotated[
        str | None, typer.Option(help="CPU threads of a run.", show_default="the task's", metavar="N")
    ] = None,
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
    """Tune every optimizer with the same number of trials, and score the winners.

    The trials are points of a scrambled Halton sequence, one run each.
    The winner is chosen on validation data.
    It runs again with seeds that had no say in the choice, the same for every optimizer.
    A run that diverges never reaches the target.
    A winner on the edge of its space is told as such.

    [bold]Examples[/bold]

    Three optimizers on handwritten digits, 16 trials and 10 seeds each, with a page to look at:

        [cyan]varigrad tune --out tuned[/cyan]

    By the book: three studies, targets by procedure, both axes:

        [cyan]varigrad tune --studies 3 --target procedure --space lr,weight-decay --out tuned[/cyan]

    Two tasks, learning rate and weight decay:

        [cyan]varigrad tune --task digits,mnist-mlp --space lr,weight-decay --data-dir ~/data[/cyan]

    What the VSGD paper tried:

        [cyan]varigrad tune --grid vsgd/table1 --optimizers vsgd,adam,adamw,sgd[/cyan]
    """
    from varigrad.lab import machine, options, own
    from varigrad.lab.display import Display
    from varigrad.lab.engines.plan import Plan
    from varigrad.lab.files import require_writable_directory
    from varigrad.lab.report import tuning_outputs
    from varigrad.lab.report.scoring import table
    from varigrad.lab.tasks import find_task
    from varigrad.lab.training import Settings
    from varigrad.lab.tuning.targets import Target, by_procedure
    from varigrad.lab.tuning.tune import tune

    names = options.parse_names(task, "--task")
    chosen = {name: options.with_glance(find_task(name), glance) for name in names}
    rows = options.parse_optimizers(optimizers)
    points = options.parse_points(rows, grid, space, trials, study, studies)
    seed_list = options.parse_seeds(seeds, 10)
    goal = None if target in (None, "procedure") else options.parse_share(target, "--target")
    options.require_schedule(schedule)
    if target == "procedure" and schedule == "paper":
        raise LabError(
            "--target procedure: no paper has rates for all of its references (accepted: another --schedule)"
        )
    found_device = machine.find_device(device)
    thread_count = options.parse_threads(threads, list(chosen.values()))
    step_counts = {name: options.parse_steps(steps, one) for name, one in chosen.items()}
    if out is not None:
        require_writable_directory(out, "--out")
    folder = shared.data_folder(data_dir)
    plan = Plan.parse(engine, store, workers, thread_count, found_device)

    progress, results = Console(stderr=True, highlight=False), Console(highlight=False)
    origin = machine.provenance(shlex.join(["varigrad", *sys.argv[1:]]), found_device)
    tunings = []
    places = own.whereabouts([*(one.name for one in chosen.values()), *(row.name for row in rows)])
    with machine.cpu_threads(thread_count):
        for name, one in chosen.items():
            as_tried = options.by_protocol(rows, one) if schedule == "paper" else rows
            first, *further = ([(row, tried[row.name]) for row in as_tried] for tried in points)
            settings = Settings(step_counts[name], schedule=schedule, device=found_device, autocast=autocast)
            data = one.data.load(folder).to(found_device)
            reach = Target(one.target if goal is None else goal)
            if target == "procedure":
                with Display(progress) as display:
                    display.say(f"{one.name}: what the target is, data {one.data.whereabouts(folder)}")
                    machinery = plan.engine(_at_hand(data), folder, origin, display.say, places)
                    axes = options.parse_names(space, "--space")
                    reach = by_procedure(
                        one, int(trials), axes, int(study), seed_list, settings, machinery, **_told_to(display)
                    )
                    display.say(reach.origin)
            with Display(progress) as display:
                display.say(f"{one.name}: {one.summary}; data {one.data.whereabouts(folder)}")
                machinery = plan.engine(_at_hand(data), folder, origin, display.say, places)
                tuning = tune(
                    one, first, seed_list, settings, machinery, reach.accuracy, further=further, **_told_to(display)
                )
            tunings.append(dataclasses.replace(tuning, target_origin=reach.origin))
    origin["runs at once"] = str(plan.workers)
    results.print()
    results.print(table(tunings, results.width))
    for path in [] if out is None else tuning_outputs.write(tunings, origin, out):
        results.print(Text(f"Wrote {path}"), soft_wrap=True)
