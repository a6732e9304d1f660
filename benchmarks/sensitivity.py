"""How much AdaptiveVSGD's constants matter: each of them changed alone, at the learning rate that was best as they are.

    python benchmarks/sensitivity.py --store FOLDER --data-dir FOLDER

It calls `varigrad compare` with the optimizers of this file, on tasks of `benchmarks/short_tasks.py` whose tuning is in
results/fair, with seeds that had no say in that, and keeps the losses in results/sensitivity/TASK.json. In the longer
runs of MNIST only the averaging rate is changed, which shorter ones do not come to know.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import varigrad
from varigrad.lab.optimizers import NORMALISED, OptimizerRow

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "sensitivity"
LENGTHS = {"cifar10-short": 1, "gpt-short": 1, "mnist-short": 4}
"""The tasks, and a run's length in that of the task."""

SEEDS = "20,21,22,23,24,25,26,27,28,29"

CONSTANTS = {
    "start_gain": (0.02, 0.1),
    "gain_rate": (0.1, 1.0),
    "gain_bounds": ((0.001, 0.9), (0.02, 0.9), (0.005, 0.7), (0.005, 0.99)),
    "prior_pairs": (0.1, 1.0, 100.0),
    "least_rate": (1e-2, 1e-4),
    "target": (-0.1, -0.03, 0.03, 0.1),
}


class Aimed(varigrad.AdaptiveVSGD):
    """AdaptiveVSGD that aims at a mean product of successive signs other than zero; above it for a longer memory."""

    target = 0.0

    def scalars(self, step, group, memory):
        agreement = memory["agreement"] - self.target * memory["pairs"]
        return super().scalars(step, group, {**memory, "agreement": agreement})


def changed(name: str, value: float | tuple[float, float]) -> OptimizerRow:
    """The rule with another value of a constant."""
    label = "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
    kind = type("Changed", (Aimed if name == "target" else varigrad.AdaptiveVSGD,), {name: value})
    return OptimizerRow(f"{name}={label}", kind, f"AdaptiveVSGD with {name} = {label}", "a study", NORMALISED)


ROWS = [changed(name, value) for name, values in CONSTANTS.items() for value in values]


def contestants(task: str) -> str:
    """Whom `varigrad compare` is to run on a task."""
    chosen = [row.name for row in ROWS if LENGTHS[task] == 1 or row.name.startswith("least_rate")]
    return ",".join(["adaptive-vsgd", *(f"benchmarks/sensitivity.py:{name}" for name in chosen)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--store", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--workers", default="1", help="runs at once")
    parser.add_argument("--data-dir", type=Path, help="the data; by default VARIGRAD_DATA")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in options.tasks:
        folder = "fair" if LENGTHS[name] == 1 else f"fair/x{LENGTHS[name]}"
        tuned = json.loads((ROOT / "results" / folder / f"{name}.json").read_text("utf-8"))
        rate = tuned["optimizers"]["adaptive-vsgd"]["lr"]
        with tempfile.TemporaryDirectory() as temporary:
            out = Path(temporary) / "comparison.json"
            command = [
                *(sys.executable, "-m", "varigrad", "compare", "--task", f"benchmarks/short_tasks.py:{name}"),
                *("--optimizers", contestants(name), "--lr", repr(rate), "--seeds", SEEDS),
                *("--steps", str(tuned["steps"])),
                *("--workers", options.workers, "--device", "cpu", "--store", str(options.store.resolve())),
                *("--json", str(out)),
            ]
            data = ["--data-dir", str(options.data_dir.resolve())] if options.data_dir else []
            if status := subprocess.run(command + data, cwd=ROOT, check=False).returncode:
                sys.exit(status)  # it has said why
            found = json.loads(out.read_text("utf-8"))
        losses = {
            row["name"].rpartition(":")[2]: {
                run["seed"]: run["curves"]["validation_loss"][-1] for run in row["rungs"][0]["runs"]
            }
            for row in found["optimizers"]
        }
        record = {
            "task": name,
            "steps": tuned["steps"],
            "lr": rate,
            "validation_loss": losses,
            "provenance": {**found["provenance"], "command": f"python benchmarks/sensitivity.py --tasks {name}"},
        }
        part = RESULTS / f"{name}.part"
        part.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        part.replace(RESULTS / f"{name}.json")


if __name__ == "__main__":
    main()
