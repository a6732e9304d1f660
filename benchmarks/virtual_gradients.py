"""What virtual gradients cost: forward and backward pass against plain autograd, interleaved, median of ratios.

    python benchmarks/virtual_gradients.py [--rounds 25] [--threads 1]

Each round runs the forward and backward passes of a model without taps, with virtual gradients and with a tap that
only looks, in turn, so that a change of the machine's speed meets all of them.
"""

import argparse
import copy
import gc
import statistics
import time

import torch
from torch import nn

import varigrad
from varigrad.engine.taps import Taps
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
TAPS = {
    "plain": lambda model: None,
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
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
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
        print(f"\n{title}\n{'':30} {'ms per pass':>12} {'ratio: median':>14} {'min':>6} {'max':>6}")
        for name, values in seconds.items():
            ratios = [mine / plain for mine, plain in zip(values, seconds["plain"], strict=True)]
            figures = f"{statistics.median(ratios):14.3f} {min(ratios):6.3f} {max(ratios):6.3f}"
            print(f"{name:30} {1e3 * statistics.median(values):12.3f} {figures}")
        del handles


if __name__ == "__main__":
    main()
