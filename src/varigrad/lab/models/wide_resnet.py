"""Wide residual networks."""

from __future__ import annotations

import torch
from torch import nn

from varigrad.lab.models.initial import he_normal


class WideBlock(nn.Module):
    """Batch normalisation, ReLU and 3x3 convolution, twice; where the shape changes, a 1x1 convolution beside it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.entry = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum; a convolution in the shortcut sees the normalised input."""
        entered = self.entry(x)
        kept = x if self.shortcut is None else self.shortcut(entered)
        return kept + self.branch(entered)  # type: ignore[no-any-return]


def wide_resnet(depth: int = 40, widening: int = 4, classes: int = 100) -> nn.Sequential:
    """WRN-depth-widening, three stages of (depth - 4)/6 blocks; WRN-40-4 by default.

    Args:
        depth: Number of convolutions, 4 more than a multiple of 6.
        widening: Factor on the 16, 32 and 64 channels of the stages.
        classes: Number of classes.

    Example:
        >>> sum(p.numel() for p in wide_resnet().parameters())
        8972340
    """
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False)]
    inputs = 16
    for stage in range(3):
        outputs = 16 * 2**stage * widening
        for index in range((depth - 4) // 6):
            layers.append(WideBlock(inputs, outputs, stride=2 if stage and not index else 1))
            inputs = outputs
    layers += [nn.BatchNorm2d(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    model = nn.Sequential(*layers)
    he_normal(model, "fan_in")
    return model
