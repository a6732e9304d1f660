"""A study: a file of runs that are never made twice, so that it can be stopped at any time and continued.

Written after every run, whole or not at all. Each run is a line: what it was made with, and how it ended.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from varigrad.lab import ladder, machine
from varigrad.lab.files import write_text
from varigrad.lab.optimizers import OptimizerRow
from varigrad.lab.tasks import find_task
from varigrad.lab.training import Settings, train

FIGURES = ("train_loss", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy")


class Study:
    """The runs of one task, of one length, with a cosine schedule and no weight decay.

    Args:
        path: The file; it is read if it is there.
        task: The task's name.
        steps: Steps of a run, or None for the task's own.
    """

    def __init__(self, path: Path, task: str, steps: int | None = None) -> None:
        self.path = path
        self.task = find_task(task)
        self.settings = {"steps": steps or self.task.steps, "schedule": "cosine", "weight_decay": 0.0}
        self.record: dict[str, Any] = {"format": "varigrad-study", "task": task, "settings": self.settings}
        self.record |= {"provenance": [], "runs": []}
        if path.exists():
            self.record = json.loads(path.read_text("utf-8"))
            if (self.record["task"], self.record["settings"]) != (task, self.settings):
                raise SystemExit(
                    f"{path} holds runs of other settings: {self.record['task']} {self.record['settings']}"
                )
        # Evaluated at the end alone, and twice on the way, so that a run that has diverged is not carried on.
        self.task = dataclasses.replace(self.task, evaluations=3)
        self.data = None

    def run(self, row: OptimizerRow, lr: float, seed: int, factor: float = 1.0, **arguments: Any) -> dict[str, Any]:
        """Returns the run with these settings; makes it, and writes it down, if it is not there.

        Args:
            row: The optimizer.
            lr: The schedule's highest learning rate.
            seed: What initial weights and batches are drawn from.
            factor: What the loss is multiplied by.
            **arguments: What the optimizer is called with besides.
        """
        key = {"optimizer": row.name, "arguments": _plain(arguments), "lr": lr, "factor": factor, "seed": seed}
        for run in self.record["runs"]:
            if all(run[name] == value for name, value in key.items()):
                return run
        if self.data is None:
            torch.set_num_threads(1)
            folder = os.environ.get("VARIGRAD_DATA")
            self.data = self.task.data.load(Path(folder) if folder else None)
            command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
            self.record["provenance"].append(machine.provenance(command, torch.device("cpu")))
        make = self.task.model
        task = dataclasses.replace(self.task, model=lambda: _Scaled(make(), factor)) if factor != 1 else self.task
        row = dataclasses.replace(row, arguments={**row.arguments, **arguments})
        done = train(task, self.data, row, lr, seed, Settings(steps=self.settings["steps"]))
        figures = {name: getattr(done.final, name) for name in FIGURES}
        run = key | {"diverged": done.diverged}
        run |= {name: round(value, 6) if math.isfinite(value) else None for name, value in figures.items()}
        self.record["runs"].append(run)
        self._write()
        print(f"{self.task.name} {json.dumps(key)} test accuracy {figures['test_accuracy']:.4f}", flush=True)
        return run

    def best_rate(self, row: OptimizerRow, seeds: Sequence[int], factor: float = 1.0, **arguments: Any) -> float:
        """Returns the rate of lowest mean validation loss on the row's ladder, which grows while it is outermost."""
        rates, losses = list(row.rates), dict[float, float]()
        while True:
            for rate in set(rates) - losses.keys():
                runs = [self.run(row, rate, seed, factor, **arguments) for seed in seeds]
                losses[rate] = statistics.fmean(_or_infinite(run["validation_loss"]) for run in runs)
            best = min(rates, key=losses.__getitem__)
            if len(rates) >= 15 or best not in (rates[0], rates[-1]):
                return best
            rates = [ladder.below(best), *rates] if best == rates[0] else [*rates, ladder.above(best)]

    def _write(self) -> None:
        head = json.dumps({key: value for key, value in self.record.items() if key != "runs"}, indent=1)
        lines = ",\n  ".join(json.dumps(run) for run in self.record["runs"])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, f'{head[:-2]},\n "runs": [\n  {lines}\n ]\n}}\n')


class _Scaled(torch.nn.Module):
    """A network whose loss is multiplied by a factor: the forward pass is the network's, all gradients are scaled."""

    def __init__(self, network: torch.nn.Module, factor: float) -> None:
        super().__init__()
        self.network = network
        self.factor = factor

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output = self.network(inputs)
        if output.requires_grad:
            output.register_hook(lambda grad: self.factor * grad)
        return output


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as they come back from a file: lists for tuples."""
    return json.loads(json.dumps(arguments))
