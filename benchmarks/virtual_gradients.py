"""What virtual gradients cost: forward and backward pass against plain autograd, interleaved, median of ratios.

    python benchmarks/virtual_gradients.py [--rounds 25] [--threads 1] [--json FILE]

Each round runs the forward and backward passes of a model without taps, with virtual gradients and with a tap that
only looks, in turn, so that a change of the machine's speed meets all of them. It counts processor time. The floor is
a plain pass and what no way of computing virtual gradients can do without: one read and one write of every
convolution's output gradient, one pass over the gradient of every matrix.
"""

import argparse
import copy
import gc
import json
import shlex
import statistics
import sys
import time
from pathlib import Path

import torch
from memory import keep_freed_memory
from torch import nn

import varigrad
from varigrad.engine.taps import Taps
from varigrad.lab.machine import provenance
from varigrad.lab.models.convnet import convnet
from varigrad.lab.models.mlp import mlp

CASES = {
    "MLP 784-256-128-64-32-10 with batch norm, batch 32": (
        lambda: mlp(784, 256, 128, 64, 32, 10, batch_norm=True),
        (32, 1, 28, 28),
        40,
    ),
    "MLP 784-1024-1024-10, batch 256": (lambda: mlp(784, 1024, 1024, 10), (256, 1, 28, 28), 4),
    "ConvNet 24-48-96-192, CIFAR-10, batch 128": (lambda: convnet(24, 48, 96, 192), (128, 3, 32, 32), 1),
}


def floor(model: nn.Module) -> None:
    """Hangs the unavoidable work on a model, written as barely as possible."""
    rooms: dict[nn.Module, torch.Tensor] = {}

    def forward(module, inputs, output):
        def backward(found, grads):
            if isinstance(module, nn.Conv2d):
                room = rooms.get(module)
                rooms[module] = torch.mul(grads[0], 2.0, out=torch.empty_like(grads[0]) if room is None else room)
            else:
                found[2].mul_(1.0)

        output.grad_fn.register_hook(backward)

    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(forward)


TAPS = {
    "plain": lambda model: None,
    "floor": floor,
    "virtual gradients": varigrad.virtual_gradients,
    "virtual gradients per channel": lambda model: varigrad.virtual_gradients(model, per="channel"),
    "a tap that only looks": lambda model: Taps(model, lambda *_: None, substitute=False),
}


def passes(model: nn.Module, inputs: torch.Tensor, count: int) -> float:
    """Seconds for `count` forward and backward passes."""
    targets = torch.zeros(len(inputs), dtype=torch.long)
    began = time.process_time()
    for _ in range(count):
        model.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    arguments = parser.parse_args()
    rows = []
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.rounds} rounds")
    for title, (build, shape, count) in CASES.items():
        torch.manual_seed(0)
        model, inputs = build(), torch.randn(shape)
        models = {name: copy.deepcopy(model) for name in TAPS}
        handles = [tap(models[name]) for name, tap in TAPS.items()]
        seconds: dict[str, list[float]] = {name: [] for name in TAPS}
        for name in TAPS:
            passes(models[name], inputs, count)
        gc.disable()
        for _ in range(arguments.rounds):
            for name in TAPS:
                seconds[name].append(passes(models[name], inputs, count) / count)
        gc.enable()
        print(f"\n{title}\n{'':30} {'ms per pass':>12} {'ratio: median':>14} {'quartiles':>13}")
        for name, values in seconds.items():
            ratios = [mine / plain for mine, plain in zip(values, seconds["plain"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            milliseconds = 1e3 * statistics.median(values)
            print(f"{name:30} {milliseconds:12.3f} {middle:14.3f} {low:6.3f} {high:6.3f}")
            rows.append({"network": title, "arm": name, "ms": milliseconds, "ratio": middle, "quartiles": [low, high]})
        del handles
    if arguments.json:
        origin = provenance(shlex.join(["python", *sys.argv]), torch.device("cpu"))
        arguments.json.write_text(json.dumps({"rows": rows, "provenance": origin}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
