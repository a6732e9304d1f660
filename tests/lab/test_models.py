import itertools

import torch

from varigrad.lab.models.convnet import convnet
from varigrad.lab.models.mlp import mlp
from varigrad.lab.tasks import TASKS


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_mlp_of_the_svgd_paper() -> None:
    model = TASKS["mnist-mlp"].model()
    assert parameters(model) == 245_482
    kinds = [type(layer).__name__ for layer in model]
    assert kinds == ["Flatten", *["Linear", "BatchNorm1d", "ReLU"] * 4, "Linear"]
    assert all(layer.bias is not None for layer in model if isinstance(layer, torch.nn.Linear))


def test_the_digits_mlp() -> None:
    assert parameters(TASKS["digits"].model()) == (64 * 64 + 64) + (64 * 32 + 32) + (32 * 10 + 10)
    assert mlp(64, 64, 32, 10)(torch.zeros(7, 1, 8, 8)).shape == (7, 10)


def test_the_convnet() -> None:
    widths = [3, 24, 48, 96, 192]
    convolutions = sum(9 * inputs * outputs for inputs, outputs in itertools.pairwise(widths))
    assert parameters(TASKS["cifar10-cnn"].model()) == convolutions + 2 * sum(widths[1:]) + 192 * 10 + 10
    assert convnet(4, 8, classes=3)(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
