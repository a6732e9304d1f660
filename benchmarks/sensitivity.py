"""How much the constants of the learned gain matter: each changed alone, at the rate that was best as they are.

    python benchmarks/sensitivity.py --store FOLDER --data-dir FOLDER
    python benchmarks/sensitivity.py --optimizer adaptive-muon --store FOLDER --data-dir FOLDER

It calls `varigrad compare` with the optimizers of this file, on tasks of `benchmarks/short_tasks.py` whose tuning is in
results/fair, with seeds that had no say in that, and keeps the losses in results/sensitivity/OPTIMIZER/TASK.json. In
the longer runs of MNIST only that constant is changed which shorter ones do not come to know.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import varigrad
from varigrad.lab.optimizers import NORMALISED, OptimizerRow

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "sensitivity"
LENGTHS = {"cifar10-short": 1, "gpt-short": 1, "mnist-short": 4}
"""The tasks, and a run's length in that of the task."""

SEEDS = "20,21,22,23,24,25,26,27,28,29"


class Aimed(varigrad.AdaptiveVSGD):
    """AdaptiveVSGD that aims at a mean product of successive signs other than zero; above it for a longer memory."""

    target = 0.0

    def scalars(self, step, group, memory):
        agreement = memory["agreement"] - self.target * memory["pairs"]
        return super().scalars(step, group, {**memory, "agreement": agreement})


@dataclass(frozen=True)
class Study:
    """What is changed of one optimizer.

    Attributes:
        kind: The optimizer, with all of these as attributes.
        constants: Their other values.
        longer: Which of them is changed in longer runs.
        takes_model: Whether it tells matrices from the rest of a model.
    """

    kind: type[varigrad.AdaptiveVSGD]
    constants: dict[str, tuple[Any, ...]]
    longer: str
    takes_model: bool = False


STUDIES = {
    "adaptive-vsgd": Study(
        Aimed,
        {
            "start_gain": (0.02, 0.1),
            "gain_rate": (0.1, 1.0),
            "gain_bounds": ((0.001, 0.9), (0.02, 0.9), (0.005, 0.7), (0.005, 0.99)),
            "prior_pairs": (0.1, 1.0, 100.0),
            "least_rate": (1e-2, 1e-4),
            "target": (-0.1, -0.03, 0.03, 0.1),
        },
        longer="least_rate",
    ),
    "adaptive-muon": Study(
        varigrad.AdaptiveMuon,
        {
            "start_gain": (0.1,),
            "gain_rate": (0.03, 0.3),
            "prior_pairs": (1.0, 100.0),
            "target": (-0.2, -0.1, 0.0),
        },
        longer="target",
        takes_model=True,
    ),
}


def changed(optimizer: str, name: str, value: float | tuple[float, float]) -> OptimizerRow:
    """The rule with another value of a constant."""
    study = STUDIES[optimizer]
    label = f"{name}={'-'.join(map(str, value)) if isinstance(value, tuple) else value}"
    kind = type("Changed", (study.kind,), {name: value})
    title = f"{optimizer} with {label}"
    name = label if optimizer == "adaptive-vsgd" else f"{optimizer}-{label}"
    return OptimizerRow(name, kind, title, "a study", NORMALISED, takes_model=study.takes_model)


def rows(optimizer: str, only: str = "") -> list[OptimizerRow]:
    """All contestants of an optimizer's study, or those with another value of one constant."""
    constants = STUDIES[optimizer].constants
    return [changed(optimizer, name, value) for name in constants if name.startswith(only) for value in constants[name]]


ROWS = [row for optimizer in STUDIES for row in rows(optimizer)]


def contestants(optimizer: str, task: str) -> str:
    """Whom `varigrad compare` is to run on a task."""
    chosen = rows(optimizer, "" if LENGTHS[task] == 1 else STUDIES[optimizer].longer)
    return ",".join([optimizer, *(f"benchmarks/sensitivity.py:{row.name}" for row in chosen)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", choices=STUDIES, default="adaptive-vsgd")
    parser.add_argument("--tasks", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--store", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--workers", default="1", help="runs at once")
    parser.add_argument("--data-dir", type=Path, help="the data; by default VARIGRAD_DATA")
    options = parser.parse_args()
    optimizer, results = options.optimizer, RESULTS / options.optimizer
    results.mkdir(parents=True, exist_ok=True)
    for name in options.tasks:
        folder = "fair" if LENGTHS[name] == 1 else f"fair/x{LENGTHS[name]}"
        tuned = json.loads((ROOT / "results" / folder / f"{name}.json").read_text("utf-8"))
        rate = tuned["optimizers"][optimizer]["lr"]
        with tempfile.TemporaryDirectory() as temporary:
            out = Path(temporary) / "comparison.json"
            command = [
                *(sys.executable, "-m", "varigrad", "compare", "--task", f"benchmarks/short_tasks.py:{name}"),
                *("--optimizers", contestants(optimizer, name), "--lr", repr(rate), "--seeds", SEEDS),
                *("--steps", str(tuned["steps"])),
                *("--workers", options.workers, "--device", "cpu", "--store", str(options.store.resolve())),
                *("--json", str(out)),
            ]
            data = ["--data-dir", str(options.data_dir.resolve())] if options.data_dir else []
            if status := subprocess.run(command + data, cwd=ROOT, check=False).returncode:
                sys.exit(status)  # it has said why
            found = json.loads(out.read_text("utf-8"))
        losses = {
            row["name"].rpartition(":")[2].removeprefix(f"{optimizer}-"): {
                run["seed"]: run["curves"]["validation_loss"][-1] for run in row["rungs"][0]["runs"]
            }
            for row in found["optimizers"]
        }
        chosen = "" if optimizer == "adaptive-vsgd" else f" --optimizer {optimizer}"
        command = f"python benchmarks/sensitivity.py{chosen} --tasks {name}"
        record = {
            "task": name,
            "optimizer": optimizer,
            "steps": tuned["steps"],
            "lr": rate,
            "validation_loss": losses,
            "provenance": {**found["provenance"], "command": command},
        }
        part = results / f"{name}.part"
        part.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        part.replace(results / f"{name}.json")


if __name__ == "__main__":
    main()
