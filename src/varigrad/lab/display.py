"""What can be seen while a comparison runs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from varigrad.lab.comparison import Contender
from varigrad.lab.grid import Progress


class Display:
    """On a terminal a live bar; everywhere one line for each optimizer that is through. A context manager.

    Args:
        console: Where to draw.
        runs: Number of runs planned at first.
    """

    def __init__(self, console: Console, runs: int) -> None:
        self._console = console
        self._bar = _LiveBar(console) if console.is_terminal else None
        self._task = self._bar.add_task("", total=runs, loss="", accuracy="", speed="") if self._bar else None
        self._began = time.monotonic()

    def __enter__(self) -> Display:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show_progress(self, progress: Progress) -> None:
        """Redraw the bar."""
        if self._bar is None or self._task is None:
            return
        evaluation = progress.evaluation
        self._bar.headline = (
            f"run {progress.run} of {progress.runs}: {progress.row.name}, lr {progress.lr:g}, seed {progress.seed}"
        )
        self._bar.update(
            self._task,
            completed=progress.done,
            total=progress.runs,
            loss=f"loss {evaluation.train_loss:.4f}",
            accuracy=f"accuracy {evaluation.validation_accuracy:.1%}",
            speed=f"{progress.steps_per_second:,.0f} steps/s",
        )

    def show_contender(self, contender: Contender) -> None:
        """Write the line of an optimizer that is through."""
        best = contender.best
        now = time.monotonic()
        seconds, self._began = now - self._began, now
        runs = sum(len(rung.runs) for rung in contender.rungs)
        line = (
            f"{contender.row.name}: best lr {best.lr:g}, test accuracy {best.test_accuracy.text(2, scale=100)} %, "
            f"test loss {best.test_loss.text(4)} ({runs} runs, {seconds:.0f} s)"
        )
        self._console.print(Text(line), soft_wrap=True)


class _LiveBar(Bar):
    """A progress bar with a line above it that says which run this is."""

    headline = "starting"

    def __init__(self, console: Console) -> None:
        super().__init__(
            BarColumn(bar_width=18),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[loss]}"),
            TextColumn("{task.fields[accuracy]}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            transient=True,
            speed_estimate_period=60,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        yield Group(Text(self.headline), self.make_tasks_table(self.tasks))
