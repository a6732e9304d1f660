"""The noise of a run as one page of HTML that needs no network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from varigrad.lab.noise.advice import advice, basis, number
from varigrad.lab.noise.display import COLOURS
from varigrad.lab.noise.findings import Findings
from varigrad.lab.report.page import rendered

__all__ = ["charts", "page"]

FAINTEST = 0.003
"""The signal-to-noise ratio at the dark end of the colours; what is below it is as dark."""


def page(found: Findings, title: str, provenance: Mapping[str, str]) -> str:
    """The page: advice, heat map, noise scale against the batch, figures of the layers; Plotly is part of it.

    Args:
        found: What is known of the run.
        title: The run's name.
        provenance: Where the page comes from.
    """
    batch = found.batch_size or 1.0
    rows = [
        (
            layer.name,
            f"{layer.weights:,}",
            number(layer.estimate.snr),
            " to ".join(number(batch * end) for end in layer.estimate.interval),
            "-" if math.isnan(layer.certain) else f"{100 * layer.certain:.0f} %",
            number(layer.effective_lr),
            number(layer.systematic),
            number(layer.gain),
        )
        for layer in found.layers
    ]
    return rendered(
        "noise.html",
        title=f"Noise: {title}",
        advice=advice(found),
        basis=basis(found),
        unit="samples" if found.batch_size else "batches",
        rows=rows,
        tall=max(240, 60 + 22 * len(found.layers)),
        provenance=provenance,
        charts=charts(found),
    )


def charts(found: Findings) -> dict[str, Any]:
    """The heat map and the noise scale, in the form Plotly draws."""
    names = [layer.name for layer in found.layers]
    steps = [part.last for part in found.slices]
    ratios = [[part.layers[name].snr for part in found.slices] for name in names]
    heat = {
        "type": "heatmap",
        "x": steps,
        "y": names,
        "z": [[_finite(math.log10(max(snr, FAINTEST)) if snr >= 0 else math.nan) for snr in row] for row in ratios],
        "text": [[number(snr) for snr in row] for row in ratios],
        "hovertemplate": "%{y}<br>to step %{x}<br>signal-to-noise ratio %{text}<extra></extra>",
        "zmin": math.log10(FAINTEST),
        "zmax": math.log10(3.0),
        "colorscale": [[index / (len(COLOURS) - 1), colour] for index, colour in enumerate(COLOURS)],
        "colorbar": {
            "title": {"text": "SNR"},
            "tickvals": [math.log10(value) for value in (0.01, 0.1, 1.0)],
            "ticktext": ["0.01", "0.1", "1"],
        },
        "xgap": 1,
        "ygap": 1,
    }
    axis = {"title": {"text": "step"}, "automargin": True}
    rows = {"automargin": True, "autorange": "reversed", "type": "category"}
    return {
        "heat": {"data": [heat], "layout": {"xaxis": axis, "yaxis": rows, "hovermode": "closest"}},
        "scale": _scale(found),
    }


def _scale(found: Findings) -> dict[str, Any]:
    batch = found.batch_size or 1.0
    known = [part for part in found.slices if math.isfinite(part.whole.batches)]
    steps = [part.last for part in known]
    middle = [batch * part.whole.batches for part in known]
    top = 10 * max([*middle, batch])
    low = [batch * min(part.whole.interval[0], part.whole.batches) for part in known]
    high = [min(batch * part.whole.interval[1], top) for part in known]
    low = [value if value > 0 else mid for value, mid in zip(low, middle, strict=True)]
    every = [_finite(batch * part.whole.batches) for part in found.slices]  # a gap where no signal was seen
    line = {
        "x": [part.last for part in found.slices],
        "y": every,
        "mode": "lines+markers",
        "name": "noise scale",
        "line": {"color": "#3b78c2"},
    }
    band = {
        "x": [*steps, *reversed(steps)],
        "y": [*high, *reversed(low)],
        "mode": "lines",
        "fill": "toself",
        "fillcolor": "#3b78c226",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "name": "95 % interval",
    }
    used = {
        "x": [found.slices[0].first, found.slices[-1].last],
        "y": [batch, batch],
        "mode": "lines",
        "name": "batch in use",
        "line": {"color": "#c2571a", "dash": "dash"},
    }
    unit = "samples" if found.batch_size else "batches"
    y_axis = {"title": {"text": unit}, "type": "log", "automargin": True}
    x_axis = {"title": {"text": "step"}, "automargin": True}
    return {"data": [band, line, used], "layout": {"xaxis": x_axis, "yaxis": y_axis}}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
