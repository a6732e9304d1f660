"""A paper's numbers beside ours: as a table, as a picture, as a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from varigrad.lab.files import write_bytes
from varigrad.lab.report import pictures
from varigrad.lab.report.charts import Chart, axis
from varigrad.lab.report.outputs import make_directory
from varigrad.lab.report.page import rendered
from varigrad.lab.report.tables import Table

# Told apart by their words as well as by their colours.
VERDICTS = {
    "reproduced": "#12a67c",
    "within noise": "#0a84d6",
    "not reproduced": "#e0601c",
    "not run": "#8a8f98",
    "no number": "#57606a",  # the paper has none; what is judged is a claim of it, elsewhere
}


@dataclass(frozen=True)
class PaperRow:
    """One number of a paper, and ours.

    Attributes:
        cell: Where it stands in the paper, such as `"VGG16, VSGD"`.
        metric: What it is, with its unit, such as `"test error (%)"`.
        paper: The paper's number; None where it has none.
        ours: Ours; None where it was not run.
        low: Lower end of our 95 % interval; None for a single run.
        high: Upper end.
        verdict: One of `VERDICTS`, or words that begin with one.
        scale: At which share of the paper's steps ours was measured, and what else there is to know.
    """

    cell: str
    metric: str
    paper: float | None
    ours: float | None
    low: float | None
    high: float | None
    verdict: str
    scale: str

    @property
    def kind(self) -> str:
        """The one of `VERDICTS` that the verdict is, or begins with."""
        return next(kind for kind in VERDICTS if self.verdict.startswith(kind))

    def __post_init__(self) -> None:
        if not self.verdict.startswith(tuple(VERDICTS)):
            raise ValueError(f"{self.cell}: verdict {self.verdict!r} does not exist (accepted: {', '.join(VERDICTS)})")


def paper_table(rows: Sequence[PaperRow]) -> Table:
    """The numbers side by side, as text.

    Example:
        >>> row = PaperRow("MLP, SVGD", "test error (%)", 1.6, 1.64, 1.58, 1.7, "within noise", "full, 10 seeds")
        >>> paper_table([row]).rows[0]
        ['MLP, SVGD', 'test error (%)', '1.6', '1.64', '1.58 to 1.7', 'within noise', 'full, 10 seeds']
    """
    return Table(
        ["cell", "metric", "paper", "ours", "95 % interval", "verdict", "scale"],
        [
            [row.cell, row.metric, _number(row.paper), _number(row.ours), _interval(row), row.verdict, row.scale]
            for row in rows
        ],
    )


def _interval(row: PaperRow) -> str:
    return "-" if row.low is None or row.high is None else f"{_number(row.low)} to {_number(row.high)}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return "∞" if math.isinf(value) else f"{value:.4g}"


def paper_page(title: str, reference: str, rows: Sequence[PaperRow], provenance: Mapping[str, str]) -> str:
    """The page: how many cells are reproduced, the table, a chart for each metric, and provenance.

    Args:
        title: What was reproduced, such as `"SVGD, Table 1"`.
        reference: The paper.
        rows: The cells.
        provenance: Where ours come from, such as `varigrad.lab.machine.provenance` gives it.
    """
    metrics = [metric for metric in dict.fromkeys(row.metric for row in rows) if _shown(rows, metric)]
    counts = [(verdict, sum(row.kind == verdict for row in rows)) for verdict in VERDICTS]
    return rendered(
        "paper.html",
        title=title,
        reference=reference,
        reading=", ".join(f"{count} {verdict}" for verdict, count in counts if count) + f", of {len(rows)}.",
        table=paper_table(rows),
        colours={row.verdict: VERDICTS[row.kind] for row in rows},
        metrics=metrics,
        heights=[80 + 34 * len(_shown(rows, metric)) for metric in metrics],
        charts={f"metric{number}": _chart(_shown(rows, metric), metric) for number, metric in enumerate(metrics)},
        provenance=provenance,
    )


def _shown(rows: Sequence[PaperRow], metric: str) -> list[PaperRow]:
    """What can be drawn of a metric: cells with a finite number of either kind."""
    return [row for row in rows if row.metric == metric and (_finite(row.paper) or _finite(row.ours))]


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _reach(row: PaperRow) -> tuple[float, float]:
    """How far our interval reaches below and above our number."""
    if row.ours is None or row.low is None or row.high is None or not math.isfinite(row.low + row.high):
        return 0.0, 0.0
    return row.ours - row.low, row.high - row.ours


def _chart(rows: Sequence[PaperRow], metric: str) -> Chart:
    ours = [row for row in rows if _finite(row.ours)]
    theirs = [row for row in rows if _finite(row.paper)]
    reaches = [_reach(row) for row in ours]
    marks = {
        "mode": "markers",
        "name": "ours, 95 % interval",
        "x": [row.ours for row in ours],
        "y": [row.cell for row in ours],
        "marker": {"size": 9, "color": [VERDICTS[row.kind] for row in ours]},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [above for _, above in reaches],
            "arrayminus": [below for below, _ in reaches],
            "color": "#8a8f98",
        },
    }
    paper = {
        "mode": "markers",
        "name": "the paper",
        "x": [row.paper for row in theirs],
        "y": [row.cell for row in theirs],
        "marker": {"size": 13, "symbol": "diamond-open", "color": "#8a8f98", "line": {"width": 2}},
    }
    names = {"automargin": True, "type": "category", "autorange": "reversed"}
    names["categoryarray"] = list(dict.fromkeys(row.cell for row in rows))
    return {"data": [paper, marks], "layout": {"xaxis": axis(metric), "yaxis": names, "hovermode": "closest"}}


def paper_picture(title: str, rows: Sequence[PaperRow]) -> Figure:
    """The paper's numbers and ours with their intervals; one panel for each metric, at most three."""
    metrics = [metric for metric in dict.fromkeys(row.metric for row in rows) if _shown(rows, metric)][:3]
    figure, panels = pictures.empty(max(1, len(metrics)))
    for axes, metric in zip(panels, metrics, strict=False):
        shown = _shown(rows, metric)
        for place, row in enumerate(shown):
            if row.paper is not None and math.isfinite(row.paper):
                axes.plot(row.paper, place, "D", markerfacecolor="none", color="#8a8f98", markersize=8)
            if row.ours is not None and math.isfinite(row.ours):
                below, above = _reach(row)
                colour = VERDICTS[row.kind]
                axes.errorbar(row.ours, place, xerr=[[below], [above]], fmt="o", color=colour, capsize=3)
        axes.set_yticks(range(len(shown)), [row.cell for row in shown], fontsize=8)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        pictures.label(axes, metric, "")
    figure.suptitle(f"{title}: diamond: the paper; dot: ours, 95 % interval", fontsize=11, x=0.01, ha="left")
    return figure


def paper_files(
    name: str, title: str, reference: str, rows: Sequence[PaperRow], provenance: Mapping[str, str]
) -> dict[str, bytes]:
    """Page, pictures and tables, by the names of their files, which begin with `name`."""
    table, figure = paper_table(rows), paper_picture(title, rows)
    return {
        f"{name}.html": paper_page(title, reference, rows, provenance).encode("utf-8"),
        **{f"{name}-numbers.{kind}": pictures.drawn(figure, kind) for kind in pictures.FORMATS},
        f"{name}.csv": table.csv().encode("utf-8"),
        f"{name}.tex": table.latex().encode("utf-8"),
    }


def write_paper(
    title: str, reference: str, rows: Sequence[PaperRow], provenance: Mapping[str, str], directory: Path
) -> list[Path]:
    """Write page, pictures and tables, and return their paths; every file is whole or not there.

    Args:
        title: What was reproduced.
        reference: The paper.
        rows: The cells.
        provenance: Where ours come from.
        directory: Where to write; made if it does not exist.

    Raises:
        LabError: Something cannot be written.
    """
    found = paper_files("paper", title, reference, rows, provenance)
    make_directory(directory)
    for name, content in found.items():
        write_bytes(directory / name, content)
    return [directory / name for name in found]
