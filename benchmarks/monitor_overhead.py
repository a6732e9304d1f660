"""What a NoiseMonitor costs: a look, in steps of training; over the default interval that is its share of the time.

Training is timed step by step: every round has four ordinary steps and a look, which needs two steps, so that whatever
else the machine does meets both. The cost of a look is what its two steps took more than two ordinary ones, in
processor time; its share is that over 250 steps. Medians of the rounds, with the range of their middle half.

    python benchmarks/monitor_overhead.py --data-dir FOLDER --json results/noise-scale/monitor-overhead.json
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import varigrad
from varigrad.lab.batches import Batches
from varigrad.lab.machine import provenance
from varigrad.lab.tasks import TASKS

EVERY = 6
ROUNDS = {"digits": 60, "mnist-mlp": 60, "cifar10-cnn": 15}
ROWS = (
    *((task, kind, False) for task in ("digits", "mnist-mlp") for kind in ("VSGD", "MSVAG", "AdamW")),
    *(("cifar10-cnn", "VSGD", False), ("digits", "VSGD", True), ("mnist-mlp", "VSGD", True)),
    ("cifar10-cnn", "VSGD", True),
)


def measured(name: str, kind: str, inside_batch: bool, folder: Path | None) -> dict[str, Any]:
    """The cost of a look, in steps."""
    task = TASKS[name]
    torch.manual_seed(0)
    model = task.model()
    optimizer = (getattr(varigrad, kind, None) or getattr(torch.optim, kind))(model.parameters(), lr=1e-3)
    batches = Batches(task.data.load(folder), task.batch_size, 0, task.pad)
    monitor = varigrad.NoiseMonitor(optimizer, model, EVERY, inside_batch=inside_batch)
    costs = []
    for number in range(ROUNDS[name]):
        durations = []
        for step in range(EVERY):
            inputs, labels = batches[number * EVERY + step]
            began = time.process_time()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            durations.append(time.process_time() - began)
        # The last but one step prepares the look, the last takes it; with `inside_batch` that is a dearer pass too.
        plain = statistics.median(durations[:-2])
        costs.append((sum(durations[-2:]) - 2 * plain) / plain)
    assert monitor.latest is not None
    low, middle, high = statistics.quantiles(costs[3:], n=4)
    share = 100 * middle / varigrad.NoiseMonitor(optimizer, model).every
    row = {"task": name, "optimizer": kind, "inside_batch": inside_batch}
    return row | {"steps": middle, "middle_half": [low, high], "per_cent": share}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for case in ROWS:
        rows.append(measured(*case, arguments.data_dir))
        print(rows[-1], flush=True)
    words = list(sys.argv)
    if "--data-dir" in words:
        words[words.index("--data-dir") + 1] = "FOLDER"
    origin = provenance(shlex.join(["python", *words]), torch.device("cpu"))
    arguments.json.write_text(json.dumps({"rows": rows, "provenance": origin}, indent=1) + "\n")


if __name__ == "__main__":
    main()
