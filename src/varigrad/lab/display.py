"""What can be seen while a grid of runs is carried out."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from varigrad.lab.comparison import Contender
from varigrad.lab.engines.jobs import Progress
from varigrad.lab.tuning.tune import Tuned


class Display:
    """On a terminal a live bar for all runs and one for each worker; everywhere lines that stay. A context manager.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = _bars(console) if console.is_terminal else None
        self._all = self._bars.add_task("all runs", total=None, told="") if self._bars else None
        self._workers: dict[int, TaskID] = {}
        self._runs = 0
        self._done = 0
        self._under_way: dict[int, tuple[str, float]] = {}  # by worker: the run, and the share of it that is done
        self._began = time.monotonic()

    def __enter__(self) -> Display:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def show_plan(self, runs: int) -> None:
        """Say how many runs there shall be."""
        self._runs = runs
        self._redraw()

    def show_run(self) -> None:
        """Count a run that is done."""
        self._done += 1
        self._redraw()

    def show_progress(self, progress: Progress) -> None:
        """Redraw the bar of a worker."""
        if self._bars is None:
            return
        job, evaluation = progress.job, progress.evaluation
        share = evaluation.step / job.settings.steps
        self._under_way[progress.worker] = (job.specification.key, share if share < 1 else 0.0)
        told = (
            f"loss {evaluation.train_loss:.4f}  accuracy {evaluation.validation_accuracy:.1%}  "
            f"{progress.steps_per_second:,.0f} steps/s"
        )
        if progress.worker not in self._workers:
            self._workers[progress.worker] = self._bars.add_task("", total=1.0, told="")
        title = f"{job.row.label}, lr {job.lr:g}, seed {job.seed}"
        self._bars.update(self._workers[progress.worker], completed=share, description=title, told=told)
        self._redraw()

    def _redraw(self) -> None:
        if self._bars is not None and self._all is not None:
            under_way = sum(share for _, share in self._under_way.values())
            told = f"{self._done} of {self._runs}"
            self._bars.update(self._all, completed=self._done + under_way, total=self._runs or None, told=told)

    def show_contender(self, contender: Contender) -> None:
        """Write the line of an optimizer that is through."""
        best = contender.best
        runs = sum(len(rung.runs) for rung in contender.rungs)
        self.say(
            f"{contender.row.label}: best lr {best.lr:g}, test accuracy {best.test_accuracy.text(2, scale=100)} %, "
            f"test loss {best.test_loss.text(4)} ({runs} runs, {time.monotonic() - self._began:.0f} s)"
        )

    def show_tuned(self, tuned: Tuned) -> None:
        """Write the line of an optimizer that has been tuned."""
        self.say(
            f"{tuned.row.label}: best of {len(tuned.trials)} trials {tuned.winner.point.text}, test accuracy "
            f"{tuned.rung.test_accuracy.text(2, scale=100)} % ({time.monotonic() - self._began:.0f} s)"
        )

    def say(self, line: str) -> None:
        """Write a line that stays."""
        self._console.print(Text(line), soft_wrap=True)


class _Remaining(TimeRemainingColumn):
    """How long all runs will take; a single one is over before that could be told."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.total != 1.0 else Text()


def _bars(console: Console) -> Bars:
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=18),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[told]}"),
        _Remaining(compact=True),
        console=console,
        transient=True,
        speed_estimate_period=60,
    )
