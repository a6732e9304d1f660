"""Whether the noise scale says which batch is worth its price: steps to a loss, for batches around it.

    python benchmarks/batch_size.py --json results/batch-size/digits.json

An MLP 64-64-32-10 on the 1,000 digits that `varigrad compare` trains on, with VSGD. For each batch size the steps until
the loss over all training images is 0.2, at the best of four constant learning rates, mean of three seeds. A monitor
that looks inside the mini-batch at every tenth step gives the noise scale on the way there, at each batch size's best
rate: 4,000 samples of it or more, over all seeds.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import varigrad
from varigrad.lab.batches import Batches, Normaliser
from varigrad.lab.data import Digits
from varigrad.lab.machine import provenance
from varigrad.lab.noise.findings import Estimate
from varigrad.lab.tasks import TASKS
from varigrad.record import NoiseRecord
from varigrad.writers import Writer

TARGET, MOST = 0.2, 4000
SIZES = (8, 16, 32, 64, 128, 256, 500)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = (0, 1, 2)


class Kept(Writer):
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[NoiseRecord] = []

    def write(self, record: NoiseRecord) -> None:
        """Keeps one."""
        self.records.append(record)


def run(batch_size: int, lr: float, seed: int) -> tuple[int, list[NoiseRecord]]:
    """The steps to the target, and what the monitor saw on the way."""
    data = Digits().load(None)
    images, labels = Normaliser(data)(data.train.images), data.train.labels
    torch.manual_seed(seed)
    model = TASKS["digits"].model()
    optimizer = varigrad.VSGD(model.parameters(), lr=lr)
    batches, kept = Batches(data, batch_size, seed), Kept()
    with varigrad.NoiseMonitor(optimizer, model, 10, batch_size=batch_size, writers=kept, inside_batch=True):
        for step in range(MOST):
            inputs, targets = batches[step]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            with torch.no_grad():
                if step % 2 and nn.functional.cross_entropy(model(images), labels) < TARGET:
                    return step + 1, kept.records
    return MOST, kept.records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for size in SIZES:
        tried = {lr: [run(size, lr, seed) for seed in SEEDS] for lr in RATES}
        steps = {lr: [count for count, _ in runs] for lr, runs in tried.items()}
        best = min(RATES, key=lambda lr: statistics.mean(steps[lr]))
        sums = [record.sums() for _, records in tried[best] for record in records]
        seen = Estimate.of([signal for signal, _ in sums], [noise for _, noise in sums])
        row = {"batch": size, "lr": best, "steps": steps, "looks": len(sums)}
        row |= {"noise_scale": size * seen.batches, "interval": [size * end for end in seen.interval]}
        rows.append(row)
        print(row, flush=True)
    origin = provenance(shlex.join(["python", *sys.argv]), torch.device("cpu"))
    text = json.dumps({"target": TARGET, "rows": rows, "provenance": origin}, indent=1).replace("Infinity", "null")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
