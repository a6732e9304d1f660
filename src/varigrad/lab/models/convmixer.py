"""ConvMixer: patches, mixed over space and over channels in turns."""

from __future__ import annotations

import torch
from torch import nn


class Skip(nn.Module):
    """What it wraps, plus its input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum."""
        return self.inner(x) + x  # type: ignore[no-any-return]


def convmixer(width: int, depth: int, kernel: int, patch: int, classes: int, channels: int = 3) -> nn.Sequential:
    """A ConvMixer-width/depth.

    Args:
        width: Channels inside.
        depth: Pairs of a depthwise and a 1x1 convolution.
        kernel: Size of the depthwise kernels, odd.
        patch: Height and width of a patch.
        classes: Number of classes.
        channels: Channels of the image.

    Example:
        >>> sum(p.numel() for p in convmixer(256, 8, kernel=5, patch=2, classes=100).parameters())
        617316
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, width, patch, stride=patch), nn.GELU(), nn.BatchNorm2d(width)]
    for _ in range(depth):
        depthwise = nn.Conv2d(width, width, kernel, groups=width, padding=kernel // 2)
        layers += [
            Skip(nn.Sequential(depthwise, nn.GELU(), nn.BatchNorm2d(width))),
            nn.Conv2d(width, width, 1),
            nn.GELU(),
            nn.BatchNorm2d(width),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
