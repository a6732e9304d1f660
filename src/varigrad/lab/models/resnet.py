"""Residual networks: ResNet-34 for small images, ResNet-50 for large ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from varigrad.lab.models.initial import he_normal


class Residual(nn.Module):
    """A branch and a shortcut, added, then ReLU; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, branch: nn.Module, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of both, rectified."""
        return nn.functional.relu(self.branch(x) + self.shortcut(x))


def _basic(inputs: int, width: int, stride: int) -> Residual:
    branch = nn.Sequential(
        nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
    )
    return Residual(branch, inputs, width, stride)


def _bottleneck(inputs: int, width: int, stride: int) -> Residual:
    branch = nn.Sequential(
        nn.Conv2d(inputs, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 4 * width, 1, bias=False),
        nn.BatchNorm2d(4 * width),
    )
    return Residual(branch, inputs, 4 * width, stride)


def resnet34(classes: int) -> nn.Sequential:
    """ResNet-34 for 32x32 images: the first convolution is 3x3 with stride 1, and there is no first pooling.

    Example:
        >>> sum(p.numel() for p in resnet34(classes=10).parameters())
        21282122
    """
    stem = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*stem, *_stages((3, 4, 6, 3), 64, expansion=1), *_head(512, classes))


def resnet50(classes: int = 1000) -> nn.Sequential:
    """ResNet-50 for 224x224 images, the stride in the 3x3 convolutions.

    Example:
        >>> sum(p.numel() for p in resnet50().parameters())
        25557032
    """
    stem = [nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    model = nn.Sequential(*stem, pool, *_stages((3, 4, 6, 3), 64, expansion=4), *_head(2048, classes))
    he_normal(model, "fan_out")
    return model


def _stages(blocks: Sequence[int], inputs: int, expansion: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            layers.append((_basic if expansion == 1 else _bottleneck)(inputs, width, stride))
            inputs = expansion * width
    return layers


def _head(inputs: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
