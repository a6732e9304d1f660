"""How much longer a whole training step takes than with torch's fused AdamW: forward pass, backward pass and step.

    python benchmarks/training_time.py --data-dir FOLDER                   # the short tasks, results/training-time
    python benchmarks/training_time.py --tasks gpt-short --rounds 5 --data-dir FOLDER

Every optimizer trains a network of its own on the batches of the task. In each round all take some steps, one after the
other, so that a change of the machine's speed meets all of them; what is told is the median of the ratios to AdamW's
time in the same round, with the middle half. It is processor time on one thread, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from varigrad.lab import machine
from varigrad.lab.files import write_text
from varigrad.lab.optimizers import find_optimizer
from varigrad.lab.tasks import find_task
from varigrad.lab.tasks.task import Task

ROOT = Path(__file__).parent.parent
TASKS = ("mnist-short", "cifar10-short", "cifar100-short", "gpt-short", "lstm-short")
OPTIMIZERS = ("adamw", "vsgd", "adaptive-vsgd", "muon", "adaptive-muon")
SECONDS = 0.2
"""What an optimizer's turn in a round lasts about."""


def trainer(task: Task, data: Any, name: str) -> Callable[[int], float]:
    """Returns what takes so many training steps, and tells the seconds of one."""
    torch.manual_seed(0)
    model = task.network(torch.device("cpu"))
    if name == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    else:
        optimizer = find_optimizer(name).build(model, 1e-3, 0.0, task.batch_size, task.steps)
    batches = task.kind.batches(data, task.batch_size, 0, task.pad)
    model.train()
    done = 0

    def run(steps: int) -> float:
        nonlocal done
        began = time.process_time()
        for step in range(done, done + steps):
            loss = task.kind.loss(model, *batches[step])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        done += steps
        return (time.process_time() - began) / steps

    return run


def measure(task: Task, data: Any, rounds: int) -> dict[str, Any]:
    """Of each optimizer the milliseconds of a step, and the ratio to AdamW's: median, first and third quartile."""
    runs = {name: trainer(task, data, name) for name in OPTIMIZERS}
    steps = {}
    for name, run in runs.items():
        run(3)
        steps[name] = max(1, round(SECONDS / run(3)))
    times = [{name: run(steps[name]) for name, run in runs.items()} for _ in range(rounds)]
    found = {}
    for name in OPTIMIZERS:
        low, ratio, high = statistics.quantiles([row[name] / row["adamw"] for row in times], n=4)
        middle = 1e3 * statistics.median(row[name] for row in times)
        figures = {"ms": middle, "ratio": ratio, "low": low, "high": high}
        found[name] = {key: round(value, 3) for key, value in figures.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--data-dir", type=Path, help="the data; by default VARIGRAD_DATA")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "training-time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.tasks:
        task = find_task(f"{ROOT}/benchmarks/short_tasks.py:{name}")
        found = measure(task, task.data.load(options.data_dir), options.rounds)
        command = f"python benchmarks/training_time.py --tasks {name} --rounds {options.rounds}"
        record = {
            "task": name,
            "parameters": sum(param.numel() for param in task.model().parameters()),
            "rounds": options.rounds,
            "optimizers": found,
            "provenance": machine.provenance(command, torch.device("cpu")),
        }
        options.out.mkdir(parents=True, exist_ok=True)
        write_text(options.out / f"{name}.json", json.dumps(record, indent=1) + "\n")
        print(name, *(f"{key} {value['ratio']:.2f}" for key, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
