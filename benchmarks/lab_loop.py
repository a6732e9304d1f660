"""What the lab's training loop costs: against a bare loop on mnist-mlp, against a plain DataLoader on cifar10-vgg6.

    python benchmarks/lab_loop.py --data-dir FOLDER --json results/lab-loop/loops.json

Both sides of a pair are run in turns, a few steps each, many times, and the medians of the ratios are told. The bare
loop is nine lines: normalised images in memory, a permutation for each epoch, the same network, loss and optimizer. The
DataLoader version is what tutorials have: one image at a time with Pillow, cut, mirrored, standardised, batched by
`torch.utils.data.DataLoader`; its steps and the lab's, as it stands, with `--compile` and with `--autocast`, are told
in processor time, which other programs on the machine disturb less.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from varigrad.lab import machine
from varigrad.lab.batches import Normaliser
from varigrad.lab.data import Data, Split
from varigrad.lab.optimizers import find_optimizer
from varigrad.lab.tasks import Task, find_task
from varigrad.lab.training import Settings, train


def lab(task: Task, data: Data, steps: int) -> Callable[[], float]:
    """Seconds of training that the lab's loop tells for a run without evaluations in between."""
    alone = dataclasses.replace(task, evaluations=1)
    small = dataclasses.replace(data, validation=data.validation[:10], test=data.test[:10])

    def run() -> float:
        return train(alone, small, find_optimizer("adamw"), 1e-3, 0, Settings(steps)).seconds[-1]

    return run


def bare(task: Task, data: Data, steps: int) -> Callable[[], float]:
    """The same steps in a loop that does nothing else."""

    def run() -> float:
        torch.manual_seed(0)
        model = task.model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
        normalise = Normaliser(data)
        model.train()
        began = time.perf_counter()
        order = torch.randperm(len(data.train))
        for step in range(steps):
            rows = order[step * task.batch_size : (step + 1) * task.batch_size]
            loss = nn.functional.cross_entropy(model(normalise(data.train.images[rows])), data.train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return time.perf_counter() - began

    return run


class OneByOne(Dataset):
    """Images cut, mirrored and standardised one at a time."""

    def __init__(self, split: Split, pad: int) -> None:
        self.images = [Image.fromarray(image) for image in split.images.permute(0, 2, 3, 1).numpy()]
        self.labels = split.labels.tolist()
        self.pad = pad

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        left, top, mirrored = torch.randint(2 * self.pad + 1, (3,)).tolist()
        image = self.images[row].crop((left - self.pad, top - self.pad, left - self.pad + 32, top - self.pad + 32))
        if mirrored % 2:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)
        return (pixels - pixels.mean()) / pixels.std(), self.labels[row]


def fed_by_the_lab(
    task: Task, data: Data, steps: int, compiled: bool = False, autocast: bool = False
) -> Callable[[], float]:
    """Processor seconds of the lab's steps, made of its own pieces, so that compiling is not counted."""
    model, batches = task.network(torch.device("cpu")), task.kind.batches(data, task.batch_size, 0, task.pad)
    forward = torch.compile(model) if compiled else model
    return _steps(forward, model, lambda step: batches[step], steps, task.kind.loss, autocast)


def fed_by_a_loader(task: Task, data: Data, steps: int, autocast: bool = False) -> Callable[[], float]:
    """Processor seconds of the tutorial's steps."""
    feed = iter(DataLoader(OneByOne(data.train, task.pad), task.batch_size, shuffle=True, drop_last=True))
    model = task.model()
    return _steps(model, model, lambda step: next(feed), steps, task.kind.loss, autocast)


def _steps(
    forward: nn.Module,
    model: nn.Module,
    batch: Callable[[int], tuple[torch.Tensor, torch.Tensor]],
    steps: int,
    loss_of: Callable[..., torch.Tensor],
    autocast: bool,
) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    model.train()
    done = 0

    def run() -> float:
        nonlocal done
        began = time.process_time()
        for step in range(done, done + steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = loss_of(forward, *batch(step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        done += steps
        return time.process_time() - began

    return run


def ratios(sides: dict[str, Callable[[], float]], base: str, rounds: int) -> dict[str, dict[str, float]]:
    """Of each side the median of its time over the base's, with the middle half."""
    for run in sides.values():
        run()
    times = [{name: run() for name, run in sides.items()} for _ in range(rounds)]
    found = {}
    for name in sides:
        quotients = [row[name] / row[base] for row in times]
        low, _, high = statistics.quantiles(quotients, n=4)
        found[name] = {"ratio": round(statistics.median(quotients), 4), "low": round(low, 4), "high": round(high, 4)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2, help="of the second pair")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    mlp, vgg = find_task("mnist-mlp"), find_task("cifar10-vgg6")
    with machine.cpu_threads(1):
        data = mlp.data.load(arguments.data_dir)
        overhead = ratios({"lab": lab(mlp, data, 100), "bare": bare(mlp, data, 100)}, "bare", 3 * arguments.rounds)
    print("mnist-mlp, a step over one of the bare loop:", overhead["lab"])
    with machine.cpu_threads(arguments.threads):
        data = vgg.data.load(arguments.data_dir)
        sides = {
            "lab": fed_by_the_lab(vgg, data, 4),
            "lab --compile": fed_by_the_lab(vgg, data, 4, compiled=True),
            "lab --autocast": fed_by_the_lab(vgg, data, 4, autocast=True),
            "DataLoader": fed_by_a_loader(vgg, data, 4),
            "DataLoader, autocast": fed_by_a_loader(vgg, data, 4, autocast=True),
        }
        speed = ratios(sides, "DataLoader", arguments.rounds)
    print("cifar10-vgg6, a step over one of the DataLoader's, in processor time:", speed)
    if arguments.json:
        record = {
            "mnist-mlp": overhead,
            "cifar10-vgg6": speed,
            "provenance": machine.provenance("python benchmarks/lab_loop.py", torch.device("cpu")),
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
