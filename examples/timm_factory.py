"""Trains a network of timm with VSGD from timm's own factory: layer decay, no decay of biases, timm's schedule."""

import timm
import torch
from sklearn.datasets import load_digits
from timm.scheduler import CosineLRScheduler

import varigrad.integrations.timm

varigrad.integrations.timm.register()

torch.manual_seed(0)
digits = load_digits()
images = torch.nn.functional.interpolate(torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, scale_factor=2)
targets = torch.tensor(digits.target)
model = timm.create_model("test_resnet", in_chans=1, num_classes=10)
optimizer = timm.optim.create_optimizer_v2(model, opt="vsgd", lr=1e-2, weight_decay=0.05, layer_decay=0.8)
scheduler = CosineLRScheduler(optimizer, t_initial=3, warmup_t=1, warmup_lr_init=1e-3)

for epoch in range(3):
    scheduler.step(epoch)
    for batch in torch.randperm(1500).split(32):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images[batch]), targets[batch]).backward()
        optimizer.step()

with torch.no_grad():
    accuracy = (model.eval()(images[1500:]).argmax(1) == targets[1500:]).float().mean()
print(f"accuracy on digits it has not seen: {accuracy:.1%}")
