"""How far each estimate of the noise scale is from a direct measurement, while networks train on MNIST and CIFAR-10.

    python benchmarks/noise_scale.py --task mnist --optimizer VSGD --lr 1e-2 --json results/noise-scale/mnist-vsgd.json

At each checkpoint the direct measurement goes over the gradient of every single sample of the training set. Against it
stand, in the same units:

- "accumulated": `noise_scale` with `gradient_variance` on the model and 4,096 samples accumulated, at the checkpoint;
- "in-batch" and "pair": `NoiseMonitor` with and without `inside_batch`, looking every 10 steps, signal and noise each
  averaged over the last 40 looks;
- "state": `noise_scale` from what the optimizer believes, at the checkpoint.

The networks have no batch normalisation, with which single samples have no gradient of their own: an MLP
784-256-128-64-32-10, batches of 32; three convolutions 24-48-96 with group normalisation, batches of 128.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import varigrad
from varigrad.lab.batches import Batches, Normaliser
from varigrad.lab.data import CIFAR10, MNIST, Data
from varigrad.lab.machine import provenance
from varigrad.lab.models.mlp import mlp
from varigrad.record import NoiseRecord
from varigrad.writers import Writer

LOOKS = 40
SAMPLES = 4096


class Kept(Writer):
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[NoiseRecord] = []

    def write(self, record: NoiseRecord) -> None:
        """Keeps one."""
        self.records.append(record)


def network(task: str) -> nn.Module:
    if task == "mnist":
        return mlp(784, 256, 128, 64, 32, 10)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 24), (24, 48), (48, 96)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.MaxPool2d(2), nn.GroupNorm(8, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


def loss_of(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(inputs), labels)


def direct(model: nn.Module, data: Data) -> dict[str, float]:
    """tr(Σ) and the squared norm of the mean gradient over the training set, single sample by single sample."""
    params = list(model.parameters())
    normalise, size = Normaliser(data), len(data.train)
    total = [torch.zeros_like(param, dtype=torch.float64) for param in params]
    squares = 0.0
    with varigrad.gradient_variance(model, method="layers"):
        for chunk in torch.arange(size).split(500):
            batch = data.train[chunk]
            model.zero_grad()
            loss_of(model, normalise(batch.images), batch.labels).backward()
            count = len(chunk)
            for mean, param in zip(total, params, strict=True):
                gradient = param.grad.double()
                mean += gradient * (count / size)
                # From the unbiased variance of the mean to the sum of the squares of its samples.
                squares += (param.grad_variance.double() * (count * (count - 1)) + count * gradient**2).sum().item()
    model.zero_grad()
    squared = sum((mean**2).sum().item() for mean in total)
    trace = (squares - size * squared) / (size - 1)
    return {"noise": trace, "signal": squared - trace / size, "scale": trace / (squared - trace / size)}


def averaged(records: Sequence[NoiseRecord], batch_size: int) -> dict[str, float]:
    sums = [record.sums() for record in records]
    signal, noise = (sum(column) / len(sums) for column in zip(*sums, strict=True))
    return {"noise": noise * batch_size, "signal": signal, "scale": noise * batch_size / signal}


def accumulated(optimizer: torch.optim.Optimizer, model: nn.Module, batches: Batches, batch: int) -> dict[str, float]:
    """The estimate from 4,096 samples that nothing else has seen, at the weights as they are."""
    passes = SAMPLES // batch
    with varigrad.gradient_variance(model, method="layers"):
        model.zero_grad()
        for number in range(passes):
            (loss_of(model, *batches[10**6 + number]) / passes).backward()
        scale = varigrad.noise_scale(optimizer, SAMPLES)
    model.zero_grad()
    found = {"noise": scale.noise * SAMPLES, "signal": scale.signal, "scale": float(scale)}
    return found | {"lowest": scale.interval[0], "highest": scale.interval[1]}


def command() -> str:
    """The command as it is to be repeated: where the data lies is not the result's."""
    words = list(sys.argv)
    if "--data-dir" in words:
        words[words.index("--data-dir") + 1] = "FOLDER"
    return shlex.join(["python", *words])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=["mnist", "cifar10"])
    parser.add_argument("--optimizer", required=True)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--checkpoints", default="500,1500,3000")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = (MNIST if arguments.task == "mnist" else CIFAR10).load(arguments.data_dir)
    batch_size = 32 if arguments.task == "mnist" else 128
    torch.manual_seed(0)
    model = network(arguments.task)
    kind = getattr(varigrad, arguments.optimizer, None) or getattr(torch.optim, arguments.optimizer)
    optimizer = kind(model.parameters(), lr=arguments.lr)
    kept = {"in-batch": Kept(), "pair": Kept()}
    # They look at different steps: what one puts on the model the other must not see.
    monitors = [
        varigrad.NoiseMonitor(optimizer, model, 10, writers=kept["in-batch"], inside_batch=True, start=5),
        varigrad.NoiseMonitor(optimizer, model, 10, writers=kept["pair"]),
    ]
    batches, found = Batches(data, batch_size, 0), []
    stops = [int(stop) for stop in arguments.checkpoints.split(",")]
    for step in range(1, stops[-1] + 1):
        optimizer.zero_grad()
        loss = loss_of(model, *batches[step - 1])
        loss.backward()
        optimizer.step()
        if step in stops:
            row: dict[str, Any] = {"step": step, "loss": loss.item()}
            scale = varigrad.noise_scale(optimizer, batch_size)
            row["state"] = {"noise": scale.noise * batch_size, "signal": scale.signal, "scale": float(scale)}
            row |= {name: averaged(writer.records[-LOOKS:], batch_size) for name, writer in kept.items()}
            row["accumulated"] = accumulated(optimizer, model, batches, batch_size)
            row["direct"] = direct(model, data)
            ratios = {name: f"{row[name]['scale'] / row['direct']['scale']:.2f}" for name in row if name not in SKIPPED}
            print(arguments.task, arguments.optimizer, step, f"{row['direct']['scale']:.0f}", ratios, flush=True)
            found.append(row)
    for monitor in monitors:
        monitor.close()
    record = {
        "task": arguments.task,
        "optimizer": arguments.optimizer,
        "lr": arguments.lr,
        "batch_size": batch_size,
        "looks": LOOKS,
        "checkpoints": found,
        "provenance": provenance(command(), torch.device("cpu")),
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(record, indent=1).replace("Infinity", "null") + "\n")


SKIPPED = ("step", "loss", "direct")

if __name__ == "__main__":
    main()
