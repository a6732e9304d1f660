"""The residual networks for small images that He et al. describe, in their pre-activation form."""

from __future__ import annotations

import torch
from torch import nn

from varigrad.lab.models.initial import between_fans


class PreactivationBlock(nn.Module):
    """Batch normalisation, ReLU and 3x3 convolution, twice, beside a shortcut without parameters.

    Where the size changes, the shortcut is the mean over 2x2 areas, with channels of zeros on either side.
    """

    def __init__(self, inputs: int, outputs: int, normalised: bool = True) -> None:
        super().__init__()
        self.entry = nn.Sequential(nn.BatchNorm2d(inputs, eps=1e-3), nn.ReLU()) if normalised else nn.Identity()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=outputs // inputs, padding=1, bias=False)
        self.normalise = nn.BatchNorm2d(outputs, eps=1e-3)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.added = outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of both branches."""
        branch: torch.Tensor = self.second(self.normalise(self.first(self.entry(x))).relu())
        if self.added:
            x = nn.functional.avg_pool2d(x, 2)
            x = nn.functional.pad(x, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return branch + x


def small_resnet(blocks: int = 3, classes: int = 10) -> nn.Sequential:
    """A ResNet of 6·blocks + 2 layers with 16, 32 and 64 channels; ResNet-20 has 269,722 parameters.

    Args:
        blocks: Residual blocks in each of the three stages, at least 1.
        classes: Number of classes.

    Example:
        >>> sum(p.numel() for p in small_resnet(3).parameters())
        269722
    """
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16, eps=1e-3), nn.ReLU()]
    inputs = 16
    for outputs in (16, 32, 64):
        for index in range(blocks):
            layers.append(PreactivationBlock(inputs, outputs, normalised=index > 0 or outputs > 16))
            inputs = outputs
    layers += [nn.BatchNorm2d(64, eps=1e-3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)]
    model = nn.Sequential(*layers)
    between_fans(model)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
