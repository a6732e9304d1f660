"""What tuning found, cell by cell and on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from varigrad.lab.report.cells import glance_note, percent
from varigrad.lab.report.tables import Table
from varigrad.lab.tuning import scores
from varigrad.lab.tuning.tune import Tuned, Tuning

_BUDGETS = (1, 2, 4, 8, 16, 32, 64)

WIDE = 100
"""Columns of a terminal that has room for all of the table; the seconds are in the files, too."""


@dataclass(frozen=True)
class Row:
    """One optimizer's line, as text; the fields are the columns."""

    optimizer: str
    winner: str
    accuracy: str
    steps: str
    seconds: str
    ratio: str
    share: str


def headings(tuning: Tuning) -> Row:
    """The columns' headings, each of one or two lines."""
    target = percent(tuning.target)
    return Row(
        "optimizer",
        "best of the trials",
        "test\naccuracy %",
        f"steps to\n{target} %",
        f"seconds to\n{target} %",
        f"steps over\n{scores.BASELINE}'s",
        f"share to\n{scores.BASELINE}'s loss",
    )


def rows(tuning: Tuning) -> list[Row]:
    """The lines of a task's table, in the order the optimizers were asked for."""
    return [_row(tuned, tuning) for tuned in tuning.tuned]


def _row(tuned: Tuned, tuning: Tuning) -> Row:
    steps, seconds = (scores.times(tuned, tuning.target, measure) for measure in scores.MEASURES)
    return Row(
        tuned.row.label,
        winners(tuned) + ("*" if tuned.edges else ""),
        tuned.rung.test_accuracy.text(2, scale=100),
        f"{number(float(np.median(steps)), 0)} ({int(np.isfinite(steps).sum())}/{len(steps)})",
        number(float(np.median(seconds)), 2),
        ratio_text(scores.ratio([tuning], tuned.row.name, "steps")),
        ratio_text(scores.share([tuning], tuned.row.name)),
    )


def winners(tuned: Tuned) -> str:
    """The winner of every study.

    Such as `"lr 0.00123"`, or `"lr 0.00123; 0.00321"`.
    """
    first, *others = (study.winner.point.text for study in tuned.studies)
    return "; ".join([first, *(text.removeprefix("lr ") for text in others)])


def number(value: float, digits: int) -> str:
    """A time, or "never"."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "never"


def ratio_text(ratio: scores.Ratio | None) -> str:
    """Such as `"0.85 (0.70-1.02)"`; a dash where there is nothing to compare with."""
    if ratio is None or math.isnan(ratio.mean):
        return "-"
    low, mean, high = ("∞" if math.isinf(v) else f"{v:.2f}" for v in (ratio.low, ratio.mean, ratio.high))
    return mean if low == mean == high else f"{mean} ({low}-{high})"


def notes(tunings: Sequence[Tuning]) -> list[str]:
    """What must be known to read the tables, one sentence each."""
    counts = {len(tuned.trials) for tuning in tunings for tuned in tuning.tuned}
    trials = f"{counts.pop()} trials each" if len(counts) == 1 else "unequal numbers of trials, as the paper had them"
    seeds = len(tunings[0].seeds)
    told = [
        f"{trials}, chosen by validation loss; then {seeds} run{'s' if seeds > 1 else ''} of the winner with seeds "
        "that had no say in the choice: medians (seeds that got there), accuracy mean ± standard deviation",
        "a run that diverges, or does not get there, counts as never",
        f"share to {scores.BASELINE}'s loss: steps to the final validation loss of {scores.BASELINE}'s run with the "
        f"same seed, over {scores.BASELINE}'s own; medians; in brackets 95 % intervals",
    ]
    studies = len(tunings[0].tuned[0].studies)
    if studies > 1:
        told.append(
            f"{studies} studies, each with trials and a winner of its own; times are medians over them, by seed"
        )
    told += [tuning.target_origin for tuning in tunings if tuning.target_origin]
    for tuning in tunings:
        told += glance_note(tuning.task)
        for tuned in tuning.tuned:
            if tuned.edges:
                names = " and ".join(name.replace("_", " ") for name in tuned.edges)
                told.append(
                    f"* {tuned.row.label} on {tuning.task.label}: its {names} is the outermost that was tried; a "
                    "better one may lie beyond"
                )
            lost = sum(trial.run.diverged for trial in tuned.all_trials)
            if lost:
                told.append(
                    f"{tuned.row.label} on {tuning.task.label}: {lost} of {len(tuned.all_trials)} trials diverged"
                )
    return told


def overall(tunings: Sequence[Tuning]) -> Table:
    """Over all tasks: geometric means of the ratios to AdamW, in steps and in seconds, and of the shares."""
    lines = [
        [
            row.label,
            *(ratio_text(scores.ratio(tunings, row.name, m)) for m in scores.MEASURES),
            ratio_text(scores.share(tunings, row.name)),
        ]
        for row in (tuned.row for tuned in tunings[0].tuned)
    ]
    times = [f"{m} over {scores.BASELINE}'s" for m in scores.MEASURES]
    return Table(["optimizer", *times, f"share to {scores.BASELINE}'s loss"], lines)


def budgets(tuning: Tuning) -> Table:
    """What fewer trials would have found: median over the choices of the lowest validation loss."""
    most = min(len(tuned.trials) for tuned in tuning.tuned)
    counts = [budget for budget in _BUDGETS if budget <= most]
    lines = [
        [tuned.row.label, *(f"{loss:.4f}" if math.isfinite(loss) else "∞" for loss in map_best(tuned, counts))]
        for tuned in tuning.tuned
    ]
    return Table(["optimizer", *(f"{count} trial{'s' if count > 1 else ''}" for count in counts)], lines)


def map_best(tuned: Tuned, counts: Sequence[int]) -> list[float]:
    """The losses that so many trials would have found."""
    return [scores.best_of(tuned, count) for count in counts]


def task_table(tuning: Tuning) -> Table:
    """A task's table for other programs."""
    return Table(astuple(headings(tuning)), [astuple(row) for row in rows(tuning)])


def table(tunings: Sequence[Tuning], width: int) -> Group:
    """A table for each task, one over all if there are several, and what must be known to read them.

    Args:
        tunings: What was found.
        width: Columns of the terminal.
    """
    parts: list[RenderableType] = []
    for tuning in tunings:
        content = task_table(tuning)
        if width < WIDE:
            content = content.without("seconds to")
        title = Text(
            f"{tuning.task.label}: {tuning.task.summary}; {tuning.settings.steps:,} steps, {tuning.settings.manner}",
            style="bold",
        )
        parts += [title, Text(), _drawn(content), Text()]
    if len(tunings) > 1:
        parts += [Text(f"{len(tunings)} tasks, geometric mean", style="bold"), Text()]
        parts += [_drawn(overall(tunings)), Text()]
    return Group(*parts, *(Text(note, style="dim") for note in notes(tunings)))


def _drawn(content: Table) -> RichTable:
    grid = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for index, heading in enumerate(content.headings):
        grid.add_column(
            heading, justify="right" if index else "left", overflow="fold", vertical="bottom", no_wrap=not index
        )
    for row in content.rows:
        grid.add_row(*(Text(str(cell)) for cell in row))
    return grid
