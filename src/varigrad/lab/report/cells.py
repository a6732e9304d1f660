"""The headline table, cell by cell, whatever draws it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from varigrad.lab.comparison import Comparison, Contender
from varigrad.lab.tasks import Task


@dataclass(frozen=True)
class Row:
    """One optimizer's line of the table, as text; the fields are the columns."""

    optimizer: str
    test_loss: str
    test_accuracy: str
    best_accuracy: str
    lr: str
    steps: str
    milliseconds: str
    state: str


def headings(comparison: Comparison) -> Row:
    """The columns' headings, each of one or two lines."""
    return Row(
        optimizer="optimizer",
        test_loss="test loss",
        test_accuracy="test\naccuracy %",
        best_accuracy="best\n%",
        lr="best lr" if any(len(contender.rungs) > 1 for contender in comparison.contenders) else "lr",
        steps=f"steps to\n{percent(comparison.task.target)} %",
        milliseconds="ms/\nstep",
        state="bytes/\nparam",
    )


def rows(comparison: Comparison) -> list[Row]:
    """The lines of the table, in the order the optimizers were asked for."""
    return [_row(contender, comparison) for contender in comparison.contenders]


def _row(contender: Contender, comparison: Comparison) -> Row:
    best = contender.best
    steps, reached = best.steps_to(comparison.task.target)
    median = "-" if math.isinf(steps) else f"{steps:.0f}"
    return Row(
        optimizer=contender.row.label,
        test_loss=best.test_loss.text(4),
        test_accuracy=best.test_accuracy.text(2, scale=100),
        best_accuracy=best.best_test_accuracy.text(2, scale=100).split(" ")[0],
        lr=f"{best.lr:g}{'*' if contender.on_edge else ''}",
        steps=f"{median} ({reached}/{len(comparison.seeds)})",
        milliseconds=f"{best.optimizer_ms:.3f}" if best.optimizer_ms < 10 else f"{best.optimizer_ms:.1f}",
        state=f"{best.state_bytes:.1f}",
    )


def notes(comparison: Comparison) -> list[str]:
    """What must be known to read the table, one sentence each."""
    seeds, task = len(comparison.seeds), comparison.task
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "a single seed"
    told = [
        f"{spread}, on test data at the end of training; best: the highest accuracy on the way",
        f"steps to {percent(task.target)} %: median (seeds that got there); ms/step: optimizer.step() alone",
    ]
    told += glance_note(task)
    if any(contender.on_edge for contender in comparison.contenders):
        told.append("* the outermost rate that was tried: a better one may lie beyond it")
    told += [
        f"{contender.row.label}: {contender.best.diverged} of {seeds} runs diverged"
        for contender in comparison.contenders
        if contender.best.diverged
    ]
    return told


def glance_note(task: Task) -> list[str]:
    """What must be known where not all evaluations saw all samples."""
    if task.glance is None:
        return []
    return [f"{task.label}: before the end of training, {task.glance:,} samples of the validation and test part each"]


def percent(share: float) -> str:
    """A share as per cent, with no more digits than it has.

    Example:
        >>> percent(0.975)
        '97.5'
    """
    return f"{100 * share:.6g}"
