"""How much faster a grid of runs is made by several workers: the same runs of mnist-mlp, in turns by one and by them.

    python benchmarks/lab_workers.py --data-dir FOLDER --json results/lab-loop/workers.json

Told are wall times of the grid as a whole, the start of the workers with it, so that the machine must have nothing else
to do. Every run has one thread.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from varigrad.lab import machine
from varigrad.lab.engines.jobs import Job
from varigrad.lab.engines.processes import Processes
from varigrad.lab.optimizers import find_optimizer
from varigrad.lab.store.folder import Store
from varigrad.lab.tasks import find_task
from varigrad.lab.training import Settings


def grid(workers: int, runs: int, steps: int, data_folder: Path) -> float:
    """The seconds that so many workers take for so many runs, in a store of their own."""
    jobs = [Job(find_task("mnist-mlp"), find_optimizer("vsgd"), 0.01, seed, Settings(steps)) for seed in range(runs)]
    with tempfile.TemporaryDirectory() as folder:
        engine = Processes(Store(Path(folder)), ["cpu"] * workers, 1, data_folder, {"command": "benchmark"}, print)
        began = time.perf_counter()
        engine.run(jobs, lambda job, run: [], lambda progress: None)
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {"1": [], str(arguments.workers): []}
    for _ in range(arguments.rounds):
        for workers, found in seconds.items():
            found.append(round(grid(int(workers), arguments.runs, arguments.steps, arguments.data_dir), 2))
            print(f"{workers} at once: {found[-1]:.1f} s", flush=True)
    speedup = round(sum(seconds["1"]) / sum(seconds[str(arguments.workers)]), 3)
    print(f"{arguments.workers} workers are {speedup:.2f} times as fast as one")
    if arguments.json:
        record = {
            "workers": arguments.workers,
            "runs": arguments.runs,
            "steps": arguments.steps,
            "seconds": seconds,
            "speedup": speedup,
            "provenance": machine.provenance("python benchmarks/lab_workers.py", torch.device("cpu")),
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
