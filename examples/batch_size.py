"""Watches the noise of a training run, and asks whether its batch is right: `varigrad noise FOLDER` has the answer.

    python examples/batch_size.py runs/batch-8 --batch-size 8
    varigrad noise runs/batch-8 --html noise.html

An MLP on the 8x8 digits of scikit-learn, VSGD, 1.5 passes over 1,000 images at batch 8.
"""

import argparse

import torch

import varigrad
from varigrad.lab.batches import Batches
from varigrad.lab.data import Digits
from varigrad.lab.models.mlp import mlp


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--steps", type=int, default=188)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = mlp(64, 64, 32, 10)
    optimizer = varigrad.VSGD(model.parameters(), lr=arguments.lr)
    batches = Batches(Digits().load(None), arguments.batch_size, seed=0)
    with varigrad.NoiseMonitor(
        optimizer, model, every=2, batch_size=arguments.batch_size, writers=arguments.folder, inside_batch=True
    ):
        for step in range(arguments.steps):
            inputs, labels = batches[step]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()


if __name__ == "__main__":
    main()
