"""VGG networks with batch normalisation, for small images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

# Channels of the convolutions of each stage; a pooling follows every stage.
VGG16 = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
VGG19 = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)


def vgg(stages: Sequence[Sequence[int]], classes: int) -> nn.Sequential:
    """Stages of 3x3 convolution, batch normalisation and ReLU, a 2x2 max pooling after each; the mean; one line.

    Weights start as those of the VSGD paper's network: normal of variance 2/(9·channels) in the convolutions, of
    standard deviation 0.01 in the line; biases at 0.

    Args:
        stages: `VGG16` or `VGG19` (configurations D and E), or other channels of the same form.
        classes: Number of classes.

    Example:
        >>> sum(p.numel() for p in vgg(VGG16, classes=100).parameters())
        14774436
    """
    layers: list[nn.Module] = []
    inputs = 3
    for stage in stages:
        for outputs in stage:
            convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
            nn.init.normal_(convolution.weight, std=math.sqrt(2 / (9 * outputs)))
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type] # it has one
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    line = nn.Linear(inputs, classes)
    nn.init.normal_(line.weight, std=0.01)
    nn.init.zeros_(line.bias)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), line)
