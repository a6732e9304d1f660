"""What `varigrad reproduce` finds: rows of a table, and curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from varigrad.lab.papers.paper import Item, Paper

SCALES = {"full": 1.0, "tenth": 0.1, "smoke": 0.0}


@dataclass(frozen=True)
class Row:
    """One number or one claim.

    Attributes:
        label: What it is.
        expected: The paper's number, or that of the closed form; None for a claim.
        ours: Ours.
        low: Lower end of the 95 % confidence interval, where there is one.
        high: Upper end.
        verdict: What `varigrad.lab.reproduce.verdict` says.
        detail: What else there is to know.
    """

    label: str
    expected: float | None
    ours: float | None
    low: float | None
    high: float | None
    verdict: str
    detail: str = ""


@dataclass(frozen=True)
class Curve:
    """A line of a figure.

    Attributes:
        panel: The panel it belongs to.
        label: What it is.
        x: Places.
        y: Values.
        dots: Whether it is points and no line.
    """

    panel: str
    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    dots: bool = False


@dataclass(frozen=True)
class Findings:
    """An item, made again.

    Attributes:
        paper: The paper.
        item: The table or figure.
        scale: How much of it was run: a key of `SCALES`.
        rows: The numbers and the claims.
        curves: The lines of a figure.
        seconds: What it took.
        runs: What was run, for the record.
        autocast: Whether training computed in bfloat16 what `torch.autocast` does.
    """

    paper: Paper
    item: Item
    scale: str
    rows: tuple[Row, ...]
    curves: tuple[Curve, ...] = ()
    seconds: float = 0.0
    runs: tuple[Mapping[str, Any], ...] = field(default=())
    autocast: bool = False

    @property
    def manner(self) -> str:
        """For people: `tenth`, or `tenth, autocast`."""
        return f"{self.scale}{', autocast' if self.autocast else ''}"

    def to_json(self, provenance: Mapping[str, str]) -> str:
        """Everything as strictly valid JSON; null stands for what is not a finite number."""
        record = {
            "format": "varigrad-reproduction",
            "version": 1,
            "item": f"{self.paper.name}/{self.item.name}",
            "title": self.item.title,
            "reference": self.paper.reference,
            "scale": self.scale,
            "autocast": self.autocast,
            "note": self.item.note,
            "rows": [asdict(row) for row in self.rows],
            "curves": [asdict(curve) for curve in self.curves],
            "runs": list(self.runs),
            "provenance": {**provenance, "seconds": round(self.seconds, 1)},
        }
        return json.dumps(_finite(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
