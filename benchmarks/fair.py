"""The fair comparison: every optimizer tuned with the same number of trials on short tasks, then ten paired seeds.

    python benchmarks/fair.py --store FOLDER --data-dir FOLDER              # all tasks, or goes on where it was ended
    python benchmarks/fair.py --tasks gpt-short --workers 2 --store FOLDER --data-dir FOLDER
    python benchmarks/fair.py --study x4 --store FOLDER --data-dir FOLDER   # runs four times as long; x16 likewise
    python benchmarks/fair.py --study muon --store FOLDER --data-dir FOLDER # a learned gain inside Muon
    python benchmarks/fair.py --study vsgd --store FOLDER --data-dir FOLDER # VSGD with other exponents

It calls `varigrad tune` for one task after the other (`benchmarks/short_tasks.py`), and keeps of what that finds what
`benchmarks/tables.py` makes its tables from: results/fair/TASK.json, or results/fair/STUDY/TASK.json. There are 16
trials on the two shortest tasks, 8 on the others, and 5 in runs sixteen times as long.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from varigrad.lab.tasks import find_task

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "fair"
OPTIMIZERS = (
    *("adaptive-vsgd", "adaptive-muon", "adamw", "vsgd", "nadamw", "muon", "schedule-free", "sgd"),
    *("benchmarks/controls.py", "constant-vsgd", "msvag", "adabayes-fp", "svgd"),
)
LONGER = (
    *("adaptive-vsgd", "adaptive-muon", "benchmarks/controls.py:adaptive-nesterov"),
    "benchmarks/adaptive_muon.py:muon-weighed",
    *("adamw", "nadamw", "muon", "vsgd"),
)
LONGEST = ("adaptive-vsgd", "adaptive-muon", "adamw", "muon")
MUON = ("adamw", "adaptive-vsgd", "muon", "adaptive-muon", "benchmarks/adaptive_muon.py")
VSGD = ("adamw", "vsgd", "benchmarks/vsgd_memory.py")


@dataclass(frozen=True)
class Study:
    """Who runs how long.

    Attributes:
        optimizers: The contestants.
        tasks: The tasks.
        times: A run's length in that of the task.
        seeds: Runs of each winner.
        trials: Learning rates for each; by default those of the task.
    """

    optimizers: Sequence[str]
    tasks: Sequence[str]
    times: int = 1
    seeds: int = 10
    trials: int | None = None


TRIALS = {
    "digits-short": 16,
    "logreg-short": 16,
    "mnist-short": 8,
    "cifar10-short": 8,
    "lstm-short": 8,
    "gpt-short": 8,
    "cifar100-short": 8,
}
STUDIES = {
    "all": Study(OPTIMIZERS, tuple(TRIALS)),
    "x4": Study(LONGER, ("mnist-short", "gpt-short"), 4),
    "x16": Study(LONGEST, ("mnist-short", "gpt-short"), 16, seeds=5, trials=5),
    "muon": Study(MUON, ("cifar10-short", "gpt-short")),
    "vsgd": Study(VSGD, ("mnist-short", "cifar10-short", "cifar100-short", "gpt-short", "lstm-short")),
}
CURVES = ("train_loss", "validation_loss", "test_loss", "test_accuracy")


def short(value: float | None, digits: int = 5) -> float | None:
    """A number of as many digits as a table could want."""
    return None if value is None else float(f"{value:.{digits}g}")


def compact(task: dict[str, Any]) -> dict[str, Any]:
    """What a tuning's JSON says of a task, without what no table shows."""
    kept = {key: task[key] for key in ("task", "steps", "glance", "schedule", "seeds", "trial_seed", "target_accuracy")}
    kept["optimizers"] = {}
    for row in task["optimizers"]:
        curves = [run["curves"] for run in row["runs"]]
        kept["optimizers"][row["name"].rpartition(":")[2]] = {
            "lr": row["winner"]["lr"],
            "edges": row["edges"],
            "trials": [[trial["lr"], short(trial["curves"]["validation_loss"][-1])] for trial in row["trials"]],
            "steps": curves[0]["step"],
            **{name: [[short(value) for value in curve[name]] for curve in curves] for name in CURVES},
            "steps_to_target": row["steps_to_target"],
            "share_of_steps_to_adamws_loss": [short(share) for share in row["share_of_steps_to_baseline_loss"]],
            "state_bytes_per_parameter": short(row["runs"][0]["state_bytes_per_parameter"]),
        }
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=STUDIES, default="all")
    parser.add_argument("--tasks", nargs="+", choices=TRIALS, help="by default those of the study")
    parser.add_argument("--store", type=Path, required=True, help="where the runs are kept, some 15 MB")
    parser.add_argument("--workers", default="1", help="runs at once")
    parser.add_argument("--data-dir", type=Path, help="the data; by default VARIGRAD_DATA")
    options = parser.parse_args()
    study = STUDIES[options.study]
    results = RESULTS if options.study == "all" else RESULTS / options.study
    results.mkdir(parents=True, exist_ok=True)
    for name in options.tasks or study.tasks:
        task = find_task(f"{ROOT}/benchmarks/short_tasks.py:{name}")
        with tempfile.TemporaryDirectory() as out:
            command = [
                *(sys.executable, "-m", "varigrad", "tune", "--task", f"benchmarks/short_tasks.py:{name}"),
                *("--optimizers", ",".join(study.optimizers), "--trials", str(study.trials or TRIALS[name])),
                *("--seeds", str(study.seeds), "--steps", str(study.times * task.steps)),
                *("--workers", options.workers, "--device", "cpu", "--store", str(options.store.resolve())),
                *("--out", out),
            ]
            folder = ["--data-dir", str(options.data_dir.resolve())] if options.data_dir else []
            if status := subprocess.run(command + folder, cwd=ROOT, check=False).returncode:
                sys.exit(status)  # it has said why
            found = json.loads((Path(out) / "tuning.json").read_text("utf-8"))
        record = compact(found["tasks"][0])
        chosen = "" if options.study == "all" else f" --study {options.study}"
        record["provenance"] = {**found["provenance"], "command": f"python benchmarks/fair.py{chosen} --tasks {name}"}
        part = results / f"{name}.part"
        part.write_text(json.dumps(record) + "\n", "utf-8")
        part.replace(results / f"{name}.json")


if __name__ == "__main__":
    main()
