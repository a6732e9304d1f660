"""Does the variance inside the mini-batch help where labels are wrong and data are few? Paired seeds, tuned rates.

    python examples/noisy_labels.py [--seeds 20] [--epochs 60] [--out results/noisy-labels/digits.json]

300 handwritten digits, of which 40 % have a wrong label, train an MLP 64-64-10 in batches of 30, ten an epoch. Every
optimizer gets the same seven learning rates, each tried with five seeds of its own; the best by accuracy on 500 other
digits with right labels is then run with the seeds that are reported, on the remaining 997. The same seed means the
same digits, wrong labels, network and order of batches for every optimizer, so that differences are taken in pairs.
"""

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.nn import functional

import varigrad
from varigrad.lab.files import write_text
from varigrad.lab.machine import provenance

TRAINED, VALIDATED, BATCH, NOISE = 300, 500, 30, 0.4
TUNING_SEEDS = range(1000, 1005)
OPTIMIZERS = {
    "MSVAG, stream": (lambda params, lr: varigrad.MSVAG(params, lr=lr), 10.0),
    "MSVAG, batch": (lambda params, lr: varigrad.MSVAG(params, lr=lr, variance="batch"), 10.0),
    "VSGD, stream": (lambda params, lr: varigrad.VSGD(params, lr=lr), 0.1),
    "VSGD, batch": (lambda params, lr: varigrad.VSGD(params, lr=lr, variance="batch"), 0.1),
    "MSGD": (lambda params, lr: varigrad.MSGD(params, lr=lr), 10.0),
    "AdamW": (lambda params, lr: torch.optim.AdamW(params, lr=lr), 0.1),
}
"""How to make each optimizer, and the largest of its learning rates; the others are smaller by factors of √10."""
PAIRS = (("MSVAG, batch", "MSVAG, stream"), ("VSGD, batch", "VSGD, stream"))


def train(name, lr, seed, epochs):
    """Returns the accuracy on validation and on test digits after the last epoch, between 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=generator)
    inputs = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
    targets = torch.tensor(digits.target)[order]
    wrong = torch.rand(TRAINED, generator=generator) < NOISE
    shifts = torch.randint(1, 10, (TRAINED,), generator=generator)
    labels = torch.where(wrong, (targets[:TRAINED] + shifts) % 10, targets[:TRAINED])

    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = OPTIMIZERS[name][0](model.parameters(), lr)
    handle = varigrad.gradient_variance(model) if "batch" in name else None
    for _ in range(epochs):
        for batch in torch.randperm(TRAINED, generator=generator).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
    if handle is not None:
        handle.remove()
    with torch.no_grad():
        right = (model(inputs).argmax(1) == targets).float()
    middle = TRAINED + VALIDATED
    return right[TRAINED:middle].mean().item(), right[middle:].mean().item()


def tune(name, epochs):
    """Returns the mean validation accuracy for every learning rate, and the best rate."""
    rates = [float(f"{OPTIMIZERS[name][1] * 10 ** (-step / 2):.2g}") for step in range(7)]
    found = {lr: statistics.mean(train(name, lr, seed, epochs)[0] for seed in TUNING_SEEDS) for lr in rates}
    return found, max(found, key=found.__getitem__)


def difference(ours, theirs):
    """The mean of the paired differences, and half the width of its 95 % interval in the normal approximation."""
    pairs = [a - b for a, b in zip(ours, theirs, strict=True)]
    return statistics.mean(pairs), 1.96 * statistics.stdev(pairs) / math.sqrt(len(pairs)), sum(d > 0 for d in pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record = {
        "provenance": provenance(" ".join(["python", "examples/noisy_labels.py", *sys.argv[1:]]), torch.device("cpu")),
        "seeds": list(range(arguments.seeds)),
        "tuning_seeds": list(TUNING_SEEDS),
        "optimizers": {},
        "differences": {},
    }
    print(f"{'optimizer':16} {'lr':>8} {'test accuracy: mean':>20} {'sd':>7}")
    for name in OPTIMIZERS:
        tuning, lr = tune(name, arguments.epochs)
        runs = [train(name, lr, seed, arguments.epochs)[1] for seed in record["seeds"]]
        record["optimizers"][name] = {"validation_accuracy": tuning, "lr": lr, "test_accuracy": runs}
        print(f"{name:16} {lr:8.3g} {statistics.mean(runs):20.4f} {statistics.stdev(runs):7.4f}", flush=True)
    for ours, theirs in PAIRS:
        runs = [record["optimizers"][name]["test_accuracy"] for name in (ours, theirs)]
        mean, half, better = difference(*runs)
        record["differences"][f"{ours} - {theirs}"] = {"mean": mean, "half_width_95": half, "better": better}
        print(f"{ours} - {theirs}: {mean:+.4f} ± {half:.4f}, better with {better} of {len(runs[0])} seeds")
    if arguments.out is not None:
        write_text(arguments.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
