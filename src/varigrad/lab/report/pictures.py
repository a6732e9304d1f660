"""What all pictures have in common: their size, their axes, and the files they become."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

FORMATS = ("png", "svg")
LINE_STYLES = {"solid": "-", "dash": "--", "dot": ":"}
_DOTS_PER_INCH = 150


def empty(panels: int) -> tuple[Figure, Sequence[Axes]]:
    """A figure with panels side by side, with room for a legend on the right."""
    size = (1.8 + (5.2 if panels > 1 else 6.4) * panels, 4.4)
    figure = Figure(figsize=size, dpi=_DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: nothing global is touched, no window is ever opened
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def label(axes: Axes, x_label: str, y_label: str) -> None:
    """Name the axes, and draw them lightly."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color="#000000", alpha=0.08)
    axes.spines[["top", "right"]].set_visible(False)


def drawn(figure: Figure, kind: str) -> bytes:
    """The figure as a file, the same bytes for the same figure.

    Args:
        figure: The figure.
        kind: One of `FORMATS`.
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "varigrad", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
