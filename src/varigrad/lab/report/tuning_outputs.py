"""The files that tuning leaves behind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from varigrad.lab.files import write_bytes
from varigrad.lab.report import curves, long, pictures, scoring, tuning_curves, tuning_page
from varigrad.lab.report.outputs import file_name, make_directory
from varigrad.lab.report.record import finite, run_record
from varigrad.lab.report.tables import Table
from varigrad.lab.tuning import scores
from varigrad.lab.tuning.tune import Tuned, Tuning


def write(tunings: Sequence[Tuning], provenance: Mapping[str, str], directory: Path) -> list[Path]:
    """Write the page, the pictures, the tables and the JSON, and return their paths.

    Everything is rendered before the first file is written, and every file is whole or not there.

    Args:
        tunings: What was found, one for each task.
        provenance: Where it comes from.
        directory: Where to write; made if it does not exist.

    Raises:
        LabError: Something cannot be written.
    """
    found: dict[str, bytes] = {"report.html": tuning_page.page(tunings, provenance).encode("utf-8")}
    drawings = {"profile": tuning_curves.profile(tunings)}
    for tuning in tunings:
        name = file_name(tuning.task.label)
        drawings[f"{name}-target"] = tuning_curves.target_bars(tuning)
        drawings[f"{name}-trials"] = tuning_curves.trials(tuning)
        drawings[f"{name}-curves"] = curves.training(tuning.comparison())
        found |= _both(f"{name}-scores", scoring.task_table(tuning))
        found |= _both(f"{name}-budgets", scoring.budgets(tuning))
    found |= _both("scores", scoring.overall(tunings))
    for name, figure in drawings.items():
        found |= {f"{name}.{kind}": pictures.drawn(figure, kind) for kind in pictures.FORMATS}
    found["runs.csv"] = long.of_tunings(tunings).csv().encode("utf-8")
    found["tuning.json"] = to_json(tunings, provenance).encode("utf-8")
    make_directory(directory)
    for name, content in found.items():
        write_bytes(directory / name, content)
    return [directory / name for name in found]


def _both(name: str, table: Table) -> dict[str, bytes]:
    return {f"{name}.csv": table.csv().encode("utf-8"), f"{name}.tex": table.latex().encode("utf-8")}


def to_json(tunings: Sequence[Tuning], provenance: Mapping[str, str]) -> str:
    """Everything that was measured, as strictly valid JSON; `null` stands for what is not a finite number."""
    record = {
        "format": "varigrad-tuning",
        "version": 1,
        "tasks": [_tuning(tuning) for tuning in tunings],
        "ratios": {
            tuned.row.name: {measure: _ratio(tunings, tuned.row.name, measure) for measure in scores.MEASURES}
            for tuned in tunings[0].tuned
        },
        "shares_of_steps_to_baseline_loss": {
            tuned.row.name: _plain(scores.share(tunings, tuned.row.name)) for tuned in tunings[0].tuned
        },
        "provenance": dict(provenance),
    }
    return json.dumps(finite(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _ratio(tunings: Sequence[Tuning], name: str, measure: str) -> dict[str, float] | None:
    return _plain(scores.ratio(tunings, name, measure))


def _plain(ratio: scores.Ratio | None) -> dict[str, float] | None:
    return None if ratio is None else {"mean": ratio.mean, "low": ratio.low, "high": ratio.high}


def _tuning(tuning: Tuning) -> dict[str, Any]:
    return {
        "task": tuning.task.name,
        "steps": tuning.settings.steps,
        "glance": tuning.task.glance,
        "schedule": tuning.settings.schedule,
        "autocast": tuning.settings.autocast,
        "seeds": list(tuning.seeds),
        "trial_seed": tuning.trial_seed,
        "target_accuracy": tuning.target,
        "target_origin": tuning.target_origin,
        "seconds": round(tuning.seconds, 3),
        "optimizers": [
            {
                "name": tuned.row.name,
                "class": tuned.row.class_name,
                "edges": list(tuned.edges),
                **_study(tuned),
                "further_studies": [_study(study) for study in tuned.further],
                "share_of_steps_to_baseline_loss": _listed(scores.shares(tuning, tuned)),
                **{f"{m}_to_target": scores.times(tuned, tuning.target, m).tolist() for m in scores.MEASURES},
            }
            for tuned in tuning.tuned
        ],
    }


def _study(tuned: Tuned) -> dict[str, Any]:
    return {
        "winner": tuned.winner.point.values,
        "trials": [{**trial.point.values, **run_record(trial.run)} for trial in tuned.trials],
        "runs": [run_record(run) for run in tuned.runs],
    }


def _listed(values: NDArray[np.float64] | None) -> list[float] | None:
    return None if values is None else list(map(float, values))
