"""How much longer the MNIST MLP trains with VSGD than with torch's AdamW: interleaved, median of ratios.

    python benchmarks/training_time.py [--rounds 25] [--steps 100]

The network and the batch size of 32 are those of the SVGD paper's section 6.1; the images are random, which costs the
same. Each round runs the same number of training steps (forward, backward, step) with every optimizer in turn, so that
a change of the machine's speed meets all of them.
"""

import argparse
import statistics
import time

import torch

import varigrad
from varigrad.lab.models.mlp import mlp

OPTIMIZERS = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "AdamW(foreach=True)": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=True),
    "AdamW(fused=True)": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
    "VSGD": lambda p: varigrad.VSGD(p, lr=1e-3),
    "VSGD(foreach=True)": lambda p: varigrad.VSGD(p, lr=1e-3, foreach=True),
    "VSGD(foreach=False)": lambda p: varigrad.VSGD(p, lr=1e-3, foreach=False),
}


def trainer(build):
    torch.manual_seed(0)
    model = mlp(784, 256, 128, 64, 32, 10, batch_norm=True)
    optimizer = build(model.parameters())
    inputs, targets = torch.rand(10_000, 28, 28), torch.randint(10, (10_000,))

    def train(steps):
        for step in range(steps):
            batch = slice(32 * step % 9_984, 32 * step % 9_984 + 32)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()

    return train


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    trainers = {name: trainer(build) for name, build in OPTIMIZERS.items()}
    milliseconds = {name: [] for name in trainers}
    for train in trainers.values():
        train(arguments.steps)
    for _ in range(arguments.rounds):
        for name, train in trainers.items():
            began = time.perf_counter()
            train(arguments.steps)
            milliseconds[name].append((time.perf_counter() - began) * 1e3 / arguments.steps)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.rounds} rounds")
    print(f"{'optimizer':22} {'ms per step':>12} {'ratio to AdamW: median':>24} {'min':>6} {'max':>6}")
    for name, values in milliseconds.items():
        ratios = [ours / theirs for ours, theirs in zip(values, milliseconds["AdamW"], strict=True)]
        figures = f"{statistics.median(ratios):24.3f} {min(ratios):6.3f} {max(ratios):6.3f}"
        print(f"{name:22} {statistics.median(values):12.3f} {figures}")


if __name__ == "__main__":
    main()
