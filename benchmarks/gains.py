"""What gains are learned in the course of a run: those of AdaptiveMuon, or of AdaptiveVSGD, tensor by tensor.

    python benchmarks/gains.py --task mnist-short --steps 3200 --data-dir FOLDER
    python benchmarks/gains.py --task gpt-short --steps 300 --data-dir FOLDER

The tasks are those of `benchmarks/short_tasks.py`, the learning rates those that were best in results/fair. What is
found is kept in results/gains/TASK-STEPS.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import varigrad
from varigrad.lab import machine
from varigrad.lab.optimizers import NORMALISED, OptimizerRow
from varigrad.lab.tasks import find_task
from varigrad.lab.training import Settings, train

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "gains"
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)


def watched(kind: type[torch.optim.Optimizer], steps: int) -> type[torch.optim.Optimizer]:
    """An optimizer that writes its gains down on the way."""
    wanted = {round(share * steps) for share in SHARES}

    class Watched(kind):
        def __init__(self, model, **arguments):
            super().__init__(model if kind is varigrad.AdaptiveMuon else model.named_parameters(), **arguments)
            self.names = {parameter: name for name, parameter in model.named_parameters()}
            self.count = 0

        def step(self, closure=None):
            loss = super().step(closure)
            self.count += 1
            if self.count in wanted:
                for group in self.param_groups:
                    for parameter in group["params"]:
                        matrix = group.get("matrices", False) and parameter.dim() > 1
                        row = written.setdefault(self.names[parameter], {"matrix": matrix, "gains": []})
                        row["gains"].append(float(f"{self.state[parameter]['gain'].item():.4g}"))
            return loss

    written: dict[str, dict] = {}
    Watched.written = written
    return Watched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = find_task(f"{ROOT}/benchmarks/short_tasks.py:{options.task}")
    data = task.data.load(options.data_dir).to(torch.device("cpu"))
    times = options.steps // task.steps
    tuned = json.loads(
        (ROOT / "results/fair" / ("" if times == 1 else f"x{times}") / f"{options.task}.json").read_text()
    )
    found = {}
    for name, kind in (("adaptive-muon", varigrad.AdaptiveMuon), ("adaptive-vsgd", varigrad.AdaptiveVSGD)):
        rate = tuned["optimizers"][name]["lr"]
        runs = []
        for seed in range(options.seeds):
            watch = watched(kind, options.steps)
            row = OptimizerRow(name, watch, name, "a study", NORMALISED, {}, takes_model=True)
            run = train(task, data, row, rate, seed, Settings(options.steps))
            runs.append({"seed": seed, "test_loss": run.final.test_loss, "tensors": watch.written})
            print(name, seed, f"test loss {run.final.test_loss:.4f}", flush=True)
        found[name] = {"lr": rate, "runs": runs}
    command = f"python benchmarks/gains.py --task {options.task} --steps {options.steps} --data-dir FOLDER"
    record = {
        "task": options.task,
        "steps": options.steps,
        "shares": SHARES,
        "optimizers": found,
        "provenance": machine.provenance(command, torch.device("cpu")),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{options.task}-{options.steps}.json").write_text(json.dumps(record) + "\n", "utf-8")


if __name__ == "__main__":
    main()
