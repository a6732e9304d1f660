"""The comparison as one page of HTML that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from varigrad.lab.comparison import Comparison
from varigrad.lab.report import cells, reading
from varigrad.lab.report.charts import charts
from varigrad.lab.report.series import colour


def page(comparison: Comparison, provenance: Mapping[str, str]) -> str:
    """The page: reading, table, interactive curves, method and provenance; Plotly is part of it.

    Args:
        comparison: What was found.
        provenance: Where it comes from, such as `varigrad.lab.machine.provenance` gives it.
    """
    seeds = len(comparison.seeds)
    names = [contender.row.label for contender in comparison.contenders]
    return rendered(
        "page.html",
        comparison=comparison,
        title=f"{', '.join(names) if len(names) <= 4 else f'{len(names)} optimizers'} on {comparison.task.label}",
        band=f"Line: mean; band: range over {seeds} seeds." if seeds > 1 else "One seed.",
        reading=reading.reading(comparison),
        method=reading.method(comparison),
        headings=asdict(cells.headings(comparison)),
        rows=[asdict(row) for row in cells.rows(comparison)],
        notes=cells.notes(comparison),
        tried={
            contender.row.label: ", ".join(f"{rung.lr:g}" for rung in contender.rungs)
            for contender in comparison.contenders
        },
        provenance={**provenance, "duration": f"{comparison.seconds:,.0f} s"},
        colours={name: colour(name) for name in names},
        charts=charts(comparison),
    )


def rendered(template: str, **values: Any) -> str:
    """A page made from a template that extends `base.html`, with Plotly inside.

    Args:
        template: Its file, beside this one.
        **values: What stands in it; `title`, `provenance` and `charts` at least.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment.get_template(template).render(**values, plotly=get_plotlyjs())
