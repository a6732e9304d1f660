"""The six-layer VGG of the SVGD paper."""

from __future__ import annotations

import itertools

from torch import nn

from varigrad.lab.models.initial import between_fans


def vgg6() -> nn.Sequential:
    """Five 3x3 convolutions in three stages and a line: 46,126 parameters (SVGD, Figure 10).

    A stage is convolution, ReLU (twice in the first two) and batch normalisation; max pooling of 3x3 areas with
    stride 2 follows the first two, the mean over space the third.

    Example:
        >>> sum(p.numel() for p in vgg6().parameters())
        46126
    """
    layers: list[nn.Module] = []
    for channels in ((3, 3, 16), (16, 16, 32), (32, 128)):
        for inputs, outputs in itertools.pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.ReLU()]
        layers += [nn.BatchNorm2d(channels[-1], eps=1e-3), nn.MaxPool2d(3, stride=2, ceil_mode=True)]
    layers[-1] = nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))
    between_fans(model)
    return model
