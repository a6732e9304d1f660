"""Timings on the terminal, and as a picture."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from varigrad.lab.bench.contenders import WAYS
from varigrad.lab.bench.timing import Skipped, Timing

_NOTES = (
    "vs AdamW: a step's time over that of torch's fused AdamW on the same tensors, measured in turns: the median of "
    "the rounds, and the range of their middle half.",
    "floor: its time over that of a compiled pass that reads and writes the same arrays with one addition each; "
    "of copy: the bytes per second that it moves over those of torch's copy.",
    "state, temp: bytes per parameter that are kept between steps, and that tensors made in a step take at most.",
)

_MARKS = {"loop": "s", "foreach": "D", "fused": "o"}
_NARROW = ("ms", "vs AdamW", "floor", "state", "temp")


def table(timings: Iterable[Timing], skipped: Iterable[Skipped], width: int) -> RenderableType:
    """A table for each set of shapes, and below them what must be known to read them.

    Args:
        timings: What was measured.
        skipped: What could not be.
        width: Columns of the terminal; below 80 ranges and copy are left out.
    """
    headings = ("ms", "vs AdamW", "", "floor", "of copy", "state", "temp") if width >= 80 else _NARROW
    blocks: list[RenderableType] = []
    for title, rows in _cases(timings).items():
        grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        grid.add_column("optimizer", no_wrap=True, min_width=max(len(row.optimizer) for row in rows))
        grid.add_column("way", no_wrap=True)
        for heading in headings:
            grid.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
        last = ""
        for row in rows:
            cells = {
                "ms": f"{row.ms:.3f}" if row.ms < 100 else f"{row.ms:.0f}",
                "vs AdamW": f"{row.ratio:.2f}",
                "": f"{row.ratio_low:.2f}–{row.ratio_high:.2f}",
                "floor": "–" if row.floor_ratio is None else f"{row.floor_ratio:.2f}",
                "of copy": f"{row.bandwidth_fraction:.0%}",
                "state": f"{row.state_bytes_per_parameter:.1f}",
                "temp": f"{row.temporary_bytes_per_parameter:.1f}",
            }
            name = row.optimizer if row.optimizer != last else ""
            last = row.optimizer
            style = "bold" if row.way == "fused" else ""
            shown = (Text(cells[heading], style=style if heading else "dim") for heading in headings)
            grid.add_row(Text(name, style=style), Text(row.way, style=style), *shown)
        blocks += [Text(title, style="bold"), Text(), grid, Text()]
    for skip in dict.fromkeys(skipped):
        blocks.append(Text(f"not timed: {skip.optimizer}, {skip.way}, on {skip.shapes}: {skip.reason}", style="yellow"))
    return Group(*blocks, *(Text(note, style="dim") for note in _NOTES))


def _cases(timings: Iterable[Timing]) -> dict[str, list[Timing]]:
    """The timings by the set of shapes; a contender that takes only some of the parameters stands with the others."""
    cases: dict[str, list[Timing]] = {}
    title = ""
    for timing in timings:
        # The reference comes first in every set, and takes all of its parameters.
        if (timing.optimizer, timing.way) == ("adamw", "fused"):
            tensors = f"{timing.tensors:,} tensors" if timing.tensors > 1 else "one tensor"
            title = f"{timing.shapes}: {timing.parameters:,} parameters in {tensors}"
        cases.setdefault(title, []).append(timing)
    return {
        title: sorted(rows, key=lambda row: [other.optimizer for other in rows].index(row.optimizer))
        for title, rows in cases.items()
    }


def picture(timings: Sequence[Timing]) -> bytes:
    """The ratios to torch's fused AdamW as a PNG: a panel for each set of shapes, a point for each way."""
    # Matplotlib takes a second to import; nobody who asked for no picture shall wait for it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = dict(zip(WAYS, ("#8a8f98", "#5cc8ff", "#0a84d6"), strict=True))
    cases = _cases(timings)
    most = max(len({row.optimizer for row in rows}) for rows in cases.values())
    columns = min(2, len(cases))
    lines = -(-len(cases) // columns)
    figure = Figure(figsize=(1.6 + 4.8 * columns, lines * (1.3 + 0.34 * most)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: nothing global is touched, no window is ever opened
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for axes in panels[len(cases) :]:
        axes.set_axis_off()
    for axes, (title, rows) in zip(panels, cases.items(), strict=False):
        names = list(dict.fromkeys(row.optimizer for row in rows))
        for offset, (way, colour) in enumerate(colours.items()):
            chosen = [row for row in rows if row.way == way]
            heights = [names.index(row.optimizer) + 0.27 * (offset - 1) for row in chosen]
            ratios = [row.ratio for row in chosen]
            spread = [[r.ratio - r.ratio_low for r in chosen], [r.ratio_high - r.ratio for r in chosen]]
            axes.errorbar(
                ratios, heights, xerr=spread, fmt=_MARKS[way], color=colour, label=way, markersize=5, elinewidth=1.2
            )
        axes.axvline(1.0, color="#e0601c", linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set_xscale("log")
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xlabel("step time over torch's fused AdamW")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.grid(axis="x", color="#000000", alpha=0.08)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="outside right center")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
