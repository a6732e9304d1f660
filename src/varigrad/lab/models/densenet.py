"""Densely connected networks for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class DenseLayer(nn.Module):
    """Adds `growth` channels to those it is given: a 1x1 convolution to 4·growth, then a 3x3 one, pre-activated."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The new channels before the old ones."""
        return torch.cat([self.branch(x), x], dim=1)


def densenet(blocks: Sequence[int] = (6, 12, 24, 16), growth: int = 32, classes: int = 10) -> nn.Sequential:
    """A DenseNet with bottlenecks whose transitions halve channels, height and width; DenseNet-121 by default.

    Args:
        blocks: Layers in each dense block.
        growth: Channels every layer adds.
        classes: Number of classes.

    Example:
        >>> sum(p.numel() for p in densenet().parameters())
        6956298
    """
    channels = 2 * growth
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
    for block, count in enumerate(blocks):
        if block:
            layers += [
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, channels // 2, 1, bias=False),
                nn.AvgPool2d(2),
            ]
            channels //= 2
        for _ in range(count):
            layers.append(DenseLayer(channels, growth))
            channels += growth
    layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(channels, classes))
