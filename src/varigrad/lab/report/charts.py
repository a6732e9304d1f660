"""The interactive charts, in the form Plotly draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from varigrad.lab.comparison import Comparison
from varigrad.lab.report.series import Series, accuracy_limits, loss_ceiling, rate_curves, training_curves

Chart = dict[str, Any]


def charts(comparison: Comparison) -> dict[str, Chart]:
    """Traces and layout of every chart, by the name of its place on the page: `loss`, `accuracy` and `rates`."""
    return {"loss": _loss(comparison), "accuracy": _accuracy(comparison), "rates": _rates(comparison)}


def _loss(comparison: Comparison) -> Chart:
    series = training_curves(comparison, "train_loss")
    return chart(series, axis("step"), axis("training loss", type="log", dtick=1, exponentformat="power"))


def _accuracy(comparison: Comparison) -> Chart:
    series = training_curves(comparison, "test_accuracy")
    target = comparison.task.target
    limits = accuracy_limits(series, target)
    y_axis = axis("test accuracy", tickformat="~%", hoverformat=".2%", range=limits)
    drawn = chart(series, axis("step"), y_axis)
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": target, "y1": target}
    drawn["layout"]["shapes"] = [line | {"line": {"color": "#888888", "width": 1, "dash": "dot"}}]
    note = {"text": "target", "xref": "paper", "x": 0, "xanchor": "left", "y": target, "yanchor": "bottom"}
    drawn["layout"]["annotations"] = [note | {"showarrow": False, "font": {"size": 11}}]
    return drawn


def _rates(comparison: Comparison) -> Chart:
    series = rate_curves(comparison)
    ceiling = loss_ceiling(series)
    lowest = min((value for line in series for value in line.finite().low), default=ceiling / 10)
    drawn = chart(
        series,
        axis("learning rate", type="log", dtick=1, exponentformat="power"),
        axis(
            "validation loss at the end",
            type="log",
            dtick="D2",
            exponentformat="power",
            range=[math.log10(lowest / 1.3), math.log10(ceiling * 1.1)],
        ),
        mode="lines+markers",
    )
    for line, contender in zip(series, comparison.contenders, strict=True):
        best = contender.best
        if math.isfinite(best.validation_loss.mean):
            ring = {"symbol": "circle-open", "size": 15, "color": line.colour, "line": {"width": 2}}
            drawn["data"].append(marks(line.name, [best.lr], best.validation_loss.mean, ring))
        beyond = [rate for rate, mean in zip(line.x, line.mean, strict=True) if not mean <= ceiling]
        drawn["data"].append(
            marks(line.name, beyond, ceiling, {"symbol": "triangle-up", "color": line.colour, "size": 9})
        )
    return drawn


def chart(series: Sequence[Series], x_axis: Chart, y_axis: Chart, mode: str = "lines") -> Chart:
    """Lines with a band from the lowest seed to the highest."""
    traces: list[Chart] = []
    for line in series:
        kept = line.finite()
        band = {
            "x": [*kept.x, *reversed(kept.x)],
            "y": [*kept.high, *reversed(kept.low)],
            "mode": "lines",
            "fill": "toself",
            "fillcolor": f"{line.colour}26",  # alpha: 15 %
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
            "legendgroup": line.name,
        }
        mean = {
            "x": list(kept.x),
            "y": list(kept.mean),
            "mode": mode,
            "name": line.name,
            "legendgroup": line.name,
            "line": {"color": line.colour, "width": 2, "dash": line.dash},
        }
        traces += [band, mean]
    return {"data": traces, "layout": {"xaxis": x_axis, "yaxis": y_axis}}


def marks(name: str, x: Sequence[float], y: float, marker: Chart) -> Chart:
    """Markers at one height, without words of their own."""
    hidden = {"hoverinfo": "skip", "showlegend": False, "legendgroup": name}
    return {"x": list(x), "y": [y] * len(x), "mode": "markers", "marker": marker, "cliponaxis": False, **hidden}


def axis(title: str, **more: Any) -> Chart:
    """An axis with a title."""
    return {"title": {"text": title, "standoff": 10}, "automargin": True, **more}
