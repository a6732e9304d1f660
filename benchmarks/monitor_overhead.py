"""What a NoiseMonitor costs: a look, in steps of training; over the default interval that is its share of the time.

Training with and without a monitor is timed in turns, step by step: every round has four ordinary steps and a look
(which needs two steps), so that whatever else the machine does meets both. A share is (look - 2 steps) / (200 steps).

    python benchmarks/monitor_overhead.py --task mnist-mlp --data-dir FOLDER
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import nn

import varigrad
from varigrad.lab.batches import Batches
from varigrad.lab.tasks import TASKS

EVERY = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="mnist-mlp", choices=list(TASKS))
    parser.add_argument("--optimizer", default="VSGD", choices=["VSGD", "MSVAG", "AdamW"])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--inside-batch", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    task = TASKS[arguments.task]
    data = task.data.load(arguments.data_dir)
    torch.manual_seed(0)
    model = task.model()
    kind = getattr(varigrad, arguments.optimizer, None) or getattr(torch.optim, arguments.optimizer)
    optimizer = kind(model.parameters(), lr=1e-3)
    batches = Batches(data, task.batch_size, 0, task.pad)
    monitor = varigrad.NoiseMonitor(optimizer, model, EVERY, inside_batch=arguments.inside_batch)
    plain, looks = [], []
    for number in range(arguments.rounds):
        durations = []
        for step in range(EVERY):
            inputs, labels = batches[number * EVERY + step]
            began = time.process_time()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            durations.append(time.process_time() - began)
        # The last but one step prepares the look, the last takes it; with `inside_batch` that is a dearer pass too.
        plain.append(statistics.median(durations[:-2]))
        looks.append(sum(durations[-2:]) - 2 * plain[-1])
    assert monitor.latest is not None
    ratios = sorted(look / step for look, step in zip(looks[5:], plain[5:], strict=True))
    low, middle, high = (ratios[int(len(ratios) * share)] for share in (0.25, 0.5, 0.75))
    default = varigrad.NoiseMonitor(optimizer, model).every
    print(f"{task.name}, {arguments.optimizer}: a look costs {middle:.2f} steps ({low:.2f} to {high:.2f}),")
    print(f"every {default} steps {100 * middle / default:.2f} % of the training time")


if __name__ == "__main__":
    main()
