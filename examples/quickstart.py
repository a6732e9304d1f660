"""Trains a small network on handwritten digits with VSGD: plain PyTorch, one line changed."""

import torch
from sklearn.datasets import load_digits

import varigrad

torch.manual_seed(0)
digits = load_digits()
inputs = torch.tensor(digits.data, dtype=torch.float32) / 16
targets = torch.tensor(digits.target)
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
optimizer = varigrad.VSGD(model.parameters(), lr=1e-2)  # was: torch.optim.AdamW(model.parameters(), lr=1e-2)

for _epoch in range(30):
    for batch in torch.randperm(1500).split(32):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()

accuracy = (model(inputs[1500:]).argmax(1) == targets[1500:]).float().mean()
print(f"accuracy on digits it has not seen: {accuracy:.1%}")
