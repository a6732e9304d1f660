"""Trains the network of the SVGD paper on MNIST, with the paper's rates, along virtual gradients.

    python examples/svgd_mnist.py [STEPS]

MNIST is read from the folder VARIGRAD_DATA, laid out as on the hub; without it the 8x8 digits of scikit-learn stand in.
"""

import os
import sys
from pathlib import Path

import torch
from torch import nn

import varigrad
from varigrad.lab.batches import Batches, Normaliser
from varigrad.lab.data import MNIST, Digits
from varigrad.lab.models.mlp import mlp

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6000
folder = Path(os.environ.get("VARIGRAD_DATA", "no such folder"))
at_hand = (folder / "ylecun" / "mnist").is_dir()
if not at_hand:
    print("MNIST is not at hand (VARIGRAD_DATA is not set): the 8x8 digits of scikit-learn stand in for it")
data = MNIST.load(folder) if at_hand else Digits().load(None)

torch.manual_seed(0)
model = mlp(data.train.images[0].numel(), 256, 128, 64, 32, 10, batch_norm=True)
optimizer = varigrad.SVGD.authors(model, batch_size=32, lr=0.01, scale=0.1)
scheduler = torch.optim.lr_scheduler.LambdaLR(
    optimizer, lambda step: 1.0 if step < 0.267 * steps else 0.5 if step < 0.6 * steps else 0.1
)
batches = Batches(data, batch_size=32, seed=0)
for step in range(steps):
    inputs, labels = batches[step]
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    scheduler.step()

model.eval()
with torch.no_grad():
    right = model(Normaliser(data)(data.test.images)).argmax(1) == data.test.labels
print(f"accuracy on images it has not seen: {right.float().mean():.1%}")
