"""A comparison as JSON: everything that was measured, for programs.

The keys, top down:

- `format`, `version`: `"varigrad-comparison"` and the number of this layout.
- `task`: `name`, `summary`, `batch_size`, `target_accuracy`, `augmentation_pad`, and `glance`, how many samples
  of the validation and test part the evaluations before the last one looked at (`null`: all).
- `settings`: `steps`, `seeds`, `learning_rates` (`"ladder"`, `"paper"` or a list), `schedule`, `weight_decay` and
  `device`.
- `optimizers`: one object for each, in the order asked for: `name`, `class`, `arguments`, `summary`, `source`;
  `best_lr` (chosen by the lowest mean final validation loss), `best_lr_on_edge` (the outermost of several: a better
  one may lie beyond), and at that rate, over the seeds, `diverged`, `test_loss`, `test_accuracy` and
  `best_test_accuracy` (each `mean` and `std`), `steps_to_target` (`median`, `reached`), `optimizer_ms_per_step`,
  `state_bytes_per_parameter`; and `rungs`, all rates that were tried.
- each of `rungs`: `lr`, `validation_loss` (`mean`, `std`) and `runs`, one for each seed: `seed`, `diverged`,
  `optimizer_ms_per_step`, `steps_per_second`, `state_bytes_per_parameter`, `seconds` (of training, before each
  evaluation) and the `curves`: lists of equal length, `step`, `train_loss`, `validation_loss`,
  `validation_accuracy`, `test_loss`, `test_accuracy`.
- `provenance`: `command`, `date`, `seconds` and the versions and processors of the machine.

Accuracies lie between 0 and 1; `std` is the sample standard deviation over the seeds. `null` stands for what is not
a finite number: the losses of a run that diverged, the `std` of a single seed, steps to a target never reached.
The same command on the same machine gives the same record but for times, the date and paths.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from varigrad.lab.comparison import Comparison, Contender, Rung
from varigrad.lab.spread import Spread
from varigrad.lab.tasks import Task
from varigrad.lab.training import Run


def to_json(comparison: Comparison, provenance: Mapping[str, str]) -> str:
    """The comparison as strictly valid JSON, with the keys told above.

    Args:
        comparison: What was found.
        provenance: Where it comes from, such as `varigrad.lab.machine.provenance` gives it.
    """
    task, settings = comparison.task, comparison.settings
    record = {
        "format": "varigrad-comparison",
        "version": 1,
        "task": {
            "name": task.name,
            "summary": task.summary,
            "batch_size": task.batch_size,
            "target_accuracy": task.target,
            "augmentation_pad": task.pad,
            "glance": task.glance,
        },
        "settings": {
            "steps": settings.steps,
            "seeds": list(comparison.seeds),
            "learning_rates": _rates(comparison),
            "schedule": settings.schedule,
            "weight_decay": settings.weight_decay,
            "autocast": settings.autocast,
            "device": str(settings.device),
        },
        "optimizers": [_contender(contender, task, settings.steps) for contender in comparison.contenders],
        "provenance": {**provenance, "seconds": round(comparison.seconds, 3)},
    }
    return json.dumps(finite(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _rates(comparison: Comparison) -> str | list[float]:
    if comparison.rates is not None:
        return list(comparison.rates)
    return "paper" if comparison.settings.schedule == "paper" else "ladder"


def _contender(contender: Contender, task: Task, steps: int) -> dict[str, Any]:
    row, best = contender.row, contender.best
    median, reached = best.steps_to(task.target)
    return {
        "name": row.name,
        "class": row.class_name,
        "arguments": row.keywords(best.lr, task.batch_size, steps),
        "summary": row.summary,
        "source": row.source,
        "best_lr": best.lr,
        "best_lr_on_edge": contender.on_edge,
        "diverged": best.diverged,
        "test_loss": asdict(best.test_loss),
        "test_accuracy": asdict(best.test_accuracy),
        "best_test_accuracy": asdict(best.best_test_accuracy),
        "steps_to_target": {"median": median, "reached": reached},
        "optimizer_ms_per_step": best.optimizer_ms,
        "state_bytes_per_parameter": best.state_bytes,
        "rungs": [_rung(rung) for rung in contender.rungs],
    }


def _rung(rung: Rung) -> dict[str, Any]:
    spread: Spread = rung.validation_loss
    return {"lr": rung.lr, "validation_loss": asdict(spread), "runs": [run_record(run) for run in rung.runs]}


def run_record(run: Run) -> dict[str, Any]:
    """One of `runs`, as told above."""
    rows = [asdict(evaluation) for evaluation in run.evaluations]
    return {
        "seed": run.seed,
        "diverged": run.diverged,
        "optimizer_ms_per_step": run.optimizer_ms,
        "steps_per_second": run.steps_per_second,
        "state_bytes_per_parameter": run.state_bytes,
        "seconds": list(run.seconds),
        "curves": {key: [row[key] for row in rows] for key in rows[0]},
    }


def finite(value: Any) -> Any:
    """The same with None for every number JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
