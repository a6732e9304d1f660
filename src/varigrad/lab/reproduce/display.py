"""What `varigrad reproduce` shows: the list of all items, the table of one, its picture."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from varigrad.lab.papers.paper import Item, Paper
from varigrad.lab.reproduce import verdict
from varigrad.lab.reproduce.findings import Curve, Findings, Row

_STYLES = {verdict.REPRODUCED: "green", verdict.WITHIN_NOISE: "yellow", verdict.NOT_REPRODUCED: "red"}


def listing(papers: Sequence[Paper]) -> RenderableType:
    """All tables and figures, and what it takes to have them again."""
    parts: list[RenderableType] = []
    for paper in papers:
        table = Table(
            title=Text(paper.reference, style="bold"), title_justify="left", box=None, pad_edge=False, show_header=False
        )
        for item in paper.items:
            table.add_row(f"  {paper.name}/{item.name}", Text(item.title), Text(needs(item), style="dim"))
        parts += [table, Text()]
    return Group(*parts)


def needs(item: Item) -> str:
    """What has to be done for an item, in a few words."""
    if item.computed:
        return "computed"
    if not item.cells:
        return "nothing to run"
    tasks = dict.fromkeys(cell.task for cell in item.cells)
    return f"trains {', '.join(tasks)}"


def table(findings: Findings) -> RenderableType:
    """The paper's numbers, ours, and the verdicts."""
    title = f"{findings.paper.name}/{findings.item.name} ({findings.manner}): {findings.item.title}"
    rows = Table(title=Text(title, style="bold"), title_justify="left", box=None, pad_edge=False, header_style="bold")
    rows.add_column("", overflow="fold", max_width=64)
    for name in ("expected", "ours", "95 % interval"):
        rows.add_column(name, justify="right")
    rows.add_column("verdict")
    rows.add_column("", style="dim", overflow="fold")
    for row in findings.rows:
        judged = Text(row.verdict, style=_STYLES.get(row.verdict, ""))
        rows.add_row(
            Text(row.label),
            number(row.expected),
            number(row.ours),
            interval(row),
            judged,
            Text(row.detail, style="dim"),
        )
    parts: list[RenderableType] = [rows]
    if findings.item.note:
        parts += [Text(), Text(findings.item.note)]
    parts += [Text(), Text(summary(findings))]
    return Group(*parts)


def summary(findings: Findings) -> str:
    """How many of each verdict."""
    counts = {
        name: sum(row.verdict.startswith(name) for row in findings.rows)
        for name in (verdict.REPRODUCED, verdict.WITHIN_NOISE, verdict.NOT_REPRODUCED, verdict.NOT_RUN)
    }
    told = [f"{count} {name}" for name, count in counts.items() if count]
    return f"{', '.join(told) or 'nothing to judge'} ({findings.seconds:.0f} s)"


def number(value: float | None) -> str:
    """Five significant digits; a dash for none."""
    return "–" if value is None else f"{value:.5g}"


def interval(row: Row) -> str:
    """The interval, or a dash."""
    return "–" if row.low is None else f"{number(row.low)} to {number(row.high)}"


def png(findings: Findings) -> bytes:
    """The curves, a panel each for what belongs together."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels: dict[str, list[Curve]] = {}
    for curve in findings.curves:
        panels.setdefault(curve.panel, []).append(curve)
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4.2 * columns, 3.2 * lines), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
        for curve in curves:
            axis.plot(curve.x, curve.y, "." if curve.dots else "-", label=curve.label, lw=1.2, ms=4)
        spread = [value for curve in curves for value in curve.y]
        if min(spread) > 0 and max(spread) > 10 * min(spread):
            axis.set_yscale("log")
        if min(curves[0].x) > 0 and max(curves[0].x) > 200 * min(curves[0].x):
            axis.set_xscale("log")
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.legend(fontsize=7, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
