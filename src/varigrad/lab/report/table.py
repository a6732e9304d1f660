"""The headline table on the terminal."""

from __future__ import annotations

from dataclasses import astuple

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from varigrad.lab.comparison import Comparison
from varigrad.lab.report import cells


def table(comparison: Comparison, width: int) -> Group:
    """A title, one line for each optimizer, and below it what must be known to read it.

    Args:
        comparison: What was found.
        width: Columns of the terminal; 80 are enough.
    """
    task, settings = comparison.task, comparison.settings
    title = f"{task.label}: {task.summary}; {settings.steps:,} steps, {settings.manner}"
    grid = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1 if width > 90 else 0, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for number, heading in enumerate(astuple(cells.headings(comparison))):
        grid.add_column(heading, justify="right" if number else "left", overflow="fold", vertical="bottom")
    for row in cells.rows(comparison):
        grid.add_row(*(Text(cell) for cell in astuple(row)))
    notes = [Text(note, style="dim") for note in cells.notes(comparison)]
    return Group(Text(title, style="bold"), Text(), grid, Text(), *notes)
