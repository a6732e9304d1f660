"""The interactive charts of tunings, in the form Plotly draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

from varigrad.lab.report.cells import percent
from varigrad.lab.report.charts import Chart, axis, chart, marks
from varigrad.lab.report.charts import charts as comparison_charts
from varigrad.lab.report.series import loss_ceiling
from varigrad.lab.report.tuning_series import HIGHEST_TAU, bars, profiles, sensitivity
from varigrad.lab.tuning.tune import Tuning


def charts(tunings: Sequence[Tuning]) -> dict[str, Chart]:
    """Every chart by the name of its place: `profile`, and with a task's number `loss0`, `trials0`, `steps0` ..."""
    found = {"profile": _profile(tunings)}
    for number, tuning in enumerate(tunings):
        curves = comparison_charts(tuning.comparison())
        found |= {f"{name}{number}": curves[name] for name in ("loss", "accuracy")}
        found[f"trials{number}"] = _trials(tuning)
        found |= {f"{measure}{number}": _bars(tuning, measure) for measure in ("steps", "seconds")}
    return found


def _profile(tunings: Sequence[Tuning]) -> Chart:
    return chart(
        profiles(tunings, "steps"),
        axis("times the fewest steps to the target", range=[1, HIGHEST_TAU]),
        axis("problems solved", tickformat="~%", range=[-0.02, 1.02]),
    )


def _trials(tuning: Tuning) -> Chart:
    series = sensitivity(tuning)
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
    for line, tuned in zip(series, tuning.tuned, strict=True):
        ring = {"symbol": "circle-open", "size": 15, "color": line.colour, "line": {"width": 2}}
        for winner in (study.winner for study in tuned.studies):
            if math.isfinite(winner.run.final.validation_loss):
                drawn["data"].append(marks(line.name, [winner.point.lr], winner.run.final.validation_loss, ring))
        beyond = [x for x, y in zip(line.x, line.mean, strict=True) if not y <= ceiling]
        triangle = {"symbol": "triangle-up", "color": line.colour, "size": 9}
        drawn["data"].append(marks(line.name, beyond, ceiling, triangle))
    return drawn


def _bars(tuning: Tuning, measure: str) -> Chart:
    found = bars(tuning, measure)
    medians = [bar.median if math.isfinite(bar.median) else 0.0 for bar in found]
    above = [
        bar.high - bar.median if math.isfinite(bar.high) else 0.0 for bar in found
    ]  # a seed that never got there has no place on the axis
    below = [bar.median - bar.low if math.isfinite(bar.median) else 0.0 for bar in found]
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [bar.name for bar in found],
        "x": medians,
        "marker": {"color": [bar.colour for bar in found]},
        "text": ["" if math.isfinite(bar.median) else "never" for bar in found],
        "textposition": "outside",
        "error_x": {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.2},
        "showlegend": False,
        "hovertemplate": f"%{{y}}: %{{x}} {measure}<extra></extra>",
    }
    x_axis = axis(f"{measure} to {percent(tuning.target)} % test accuracy", rangemode="tozero")
    y_axis = {"automargin": True, "autorange": "reversed"}
    return {"data": [trace], "layout": {"xaxis": x_axis, "yaxis": y_axis, "hovermode": "closest"}}
