"""How well calibrated predictions are: plain weights against weights drawn from AdaBayes' and from IVON's posterior.

    python benchmarks/calibration.py --task mnist --data-dir FOLDER --json results/calibration/mnist.json

Small training sets, on which networks become overconfident: 2,000 images of MNIST, an MLP 784-128-64-10, 1,000 steps,
and 3,000 of CIFAR-10 at 16x16, three convolutions 16-32-64 with group normalisation, 300 steps; batches of 50, cosine
schedule, 2,000 and 500 images for validation. Each optimizer has six settings, of which the one with the lowest
validation loss of seed 0 is taken, with drawn weights and without separately. Then three seeds, on 10,000 and 1,000
test images: negative log-likelihood, expected calibration error (15 bins of equal width), error. Predictions with drawn
weights are means of probabilities over 32 draws. IVON is the package ivon-opt (Shen et al. 2024).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import shlex
import statistics
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ivon
import torch
from torch import Tensor, nn

import varigrad
from varigrad.lab.batches import Batches, Normaliser
from varigrad.lab.data import CIFAR10, MNIST, Data, Split
from varigrad.lab.machine import provenance
from varigrad.lab.models.mlp import mlp

BATCH, DRAWS = 50, 32
SIZES = {"mnist": 2000, "cifar10": 3000}
STEPS = {"mnist": 1000, "cifar10": 300}
HELD_OUT = {"mnist": (2000, 10_000), "cifar10": (500, 1000)}
Settings = dict[str, float]


def network(task: str) -> nn.Module:
    if task == "mnist":
        return mlp(784, 128, 64, 10)
    layers: list[nn.Module] = [nn.AvgPool2d(2)]
    for inputs, outputs in itertools.pairwise((3, 16, 32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.MaxPool2d(2), nn.GroupNorm(8, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def grid(**values: tuple[float, ...]) -> list[Settings]:
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


OPTIMIZERS: dict[str, tuple[Callable[..., Any], list[Settings]]] = {
    "AdamW": (
        lambda params, size, **settings: torch.optim.AdamW(params, **settings),
        grid(lr=(3e-4, 1e-3, 3e-3), weight_decay=(0.01, 0.1)),
    ),
    "AdaBayes": (
        lambda params, size, **settings: varigrad.AdaBayes(params, batch_size=BATCH, **settings),
        grid(lr=(3e-4, 1e-3, 3e-3), sgd_lr=(0.1, 0.5)),
    ),
    "IVON": (
        lambda params, size, **settings: ivon.IVON(params, ess=size, **settings),
        grid(lr=(0.03, 0.1, 0.3), hess_init=(0.1, 1.0)),
    ),
}


def train(task: str, data: Data, name: str, settings: Settings, seed: int) -> tuple[nn.Module, Any]:
    torch.manual_seed(seed)
    model = network(task)
    optimizer = OPTIMIZERS[name][0](model.parameters(), len(data.train), **settings)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / STEPS[task])))
    batches = Batches(data, BATCH, seed)
    for step in range(STEPS[task]):
        inputs, labels = batches[step]
        with optimizer.sampled_params(train=True) if name == "IVON" else contextlib.nullcontext():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        rate.step()
    return model, optimizer


@torch.no_grad()
def probabilities(model: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([model(part).double().softmax(1) for part in inputs.split(1000)])


def predictions(model: nn.Module, optimizer: Any, inputs: Tensor, drawn: bool) -> Tensor:
    if not drawn:
        return probabilities(model, inputs)
    total = torch.zeros(len(inputs), 10, dtype=torch.float64)
    for _ in range(DRAWS):
        with optimizer.sampled_params():
            total += probabilities(model, inputs)
    return total / DRAWS


def scores(predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """Negative log-likelihood, expected calibration error and error in per cent."""
    confidence, chosen = predicted.max(1)
    right = (chosen == labels).double()
    bins = (confidence * 15).long().clamp(max=14)
    gap = sum((right[bins == b] - confidence[bins == b]).sum().abs().item() for b in range(15))
    likelihood = predicted[torch.arange(len(labels)), labels].clamp(min=1e-30).log()
    return {"nll": -likelihood.mean().item(), "ece": 100 * gap / len(labels), "error": 100 * (1 - right.mean().item())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=list(SIZES))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    whole = (MNIST if arguments.task == "mnist" else CIFAR10).load(arguments.data_dir)
    few, many = HELD_OUT[arguments.task]
    data = Data(whole.train[: SIZES[arguments.task]], whole.validation[:few], whole.test[:many], whole.mean, whole.std)
    normalise = Normaliser(data)

    def measured(model: nn.Module, optimizer: Any, part: Split, drawn: bool) -> dict[str, float]:
        return scores(predictions(model, optimizer, normalise(part.images), drawn), part.labels)

    rows = []
    for name, (_, candidates) in OPTIMIZERS.items():
        tried = [(settings, train(arguments.task, data, name, settings, 0)) for settings in candidates]
        for drawn in (False, True) if name != "AdamW" else (False,):
            losses = [measured(*pair, data.validation, drawn)["nll"] for _, pair in tried]
            best = min(range(len(tried)), key=lambda index: losses[index] if math.isfinite(losses[index]) else math.inf)
            settings = tried[best][0]
            runs = [measured(*tried[best][1], data.test, drawn)]
            for seed in (1, 2):
                runs.append(measured(*train(arguments.task, data, name, settings, seed), data.test, drawn))
            row = {"optimizer": name, "drawn": drawn, "settings": settings, "validation_nll": losses, "runs": runs}
            rows.append(row)
            means = {key: f"{statistics.mean(run[key] for run in runs):.4f}" for key in runs[0]}
            print(arguments.task, name, "drawn" if drawn else "plain", settings, means, flush=True)
    words = list(sys.argv)
    if "--data-dir" in words:
        words[words.index("--data-dir") + 1] = "FOLDER"
    origin = provenance(shlex.join(["python", *words]), torch.device("cpu")) | {"ivon-opt": version("ivon-opt")}
    record = {"task": arguments.task, "train": len(data.train), "rows": rows, "provenance": origin}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
