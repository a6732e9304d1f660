"""Every evaluation of every run, one line each: for other programs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from varigrad.lab.comparison import Comparison
from varigrad.lab.report.tables import Table
from varigrad.lab.training import Evaluation, Run
from varigrad.lab.tuning.tune import Tuning

_EVALUATION = [field.name for field in dataclasses.fields(Evaluation)]
_Line = tuple[Mapping[str, Any], Run]


def of_comparison(comparison: Comparison) -> Table:
    """The evaluations of a comparison."""
    decay = comparison.settings.weight_decay
    return _table(
        ({"task": comparison.task.name, "optimizer": c.row.name, "lr": rung.lr, "weight_decay": decay}, run)
        for c in comparison.contenders
        for rung in c.rungs
        for run in rung.runs
    )


def of_tunings(tunings: Iterable[Tuning]) -> Table:
    """The evaluations of trials and winners, told apart by `part`."""

    def lines() -> Iterable[_Line]:
        for tuning in tunings:
            for tuned in tuning.tuned:
                for number, study in enumerate(tuned.studies):
                    known = {"task": tuning.task.name, "optimizer": tuned.row.name, "study": number}
                    for trial in study.trials:
                        yield {**known, "part": "trial", **_point(trial.point.values)}, trial.run
                    for run in study.runs:
                        yield {**known, "part": "winner", **_point(study.winner.point.values)}, run

    return _table(lines())


def _point(values: Mapping[str, Any]) -> dict[str, Any]:
    main = ("lr", "weight_decay")
    others = {name: value for name, value in values.items() if name not in main}
    return {**{name: values[name] for name in main}, "arguments": " ".join(f"{k}={v}" for k, v in others.items())}


def _table(lines: Iterable[_Line]) -> Table:
    rows: list[list[object]] = []
    headings: list[str] = []
    for known, run in lines:
        headings = [*known, "seed", "seconds", *_EVALUATION]
        for evaluation, seconds in zip(run.evaluations, run.seconds or [math.nan] * len(run.evaluations), strict=True):
            values = [getattr(evaluation, name) for name in _EVALUATION]
            rows.append([*known.values(), run.seed, seconds, *values])
    return Table(headings, rows)
