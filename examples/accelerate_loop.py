"""Trains in an Accelerate loop with VSGD, gradient accumulation, and a checkpoint to resume from."""

import tempfile

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import varigrad

set_seed(0)
digits = load_digits()
inputs, targets = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
loader = DataLoader(TensorDataset(inputs[:1500], targets[:1500]), batch_size=16, shuffle=True)
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
optimizer = varigrad.VSGD(model.parameters(), lr=1e-2)  # was: torch.optim.AdamW(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10 * len(loader) // 2)

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model, optimizer, scheduler, loader = accelerator.prepare(model, optimizer, scheduler, loader)


def train(epochs):
    for _ in range(epochs):
        for batch, labels in loader:
            with accelerator.accumulate(model):
                accelerator.backward(torch.nn.functional.cross_entropy(model(batch), labels))
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()


train(epochs=5)
with tempfile.TemporaryDirectory() as folder:
    accelerator.save_state(folder)
    accelerator.load_state(folder)  # in another process: prepare as above, then load
train(epochs=5)

accuracy = (model(inputs[1500:]).argmax(1) == targets[1500:]).float().mean()
print(f"accuracy on digits it has not seen: {accuracy:.1%}")
