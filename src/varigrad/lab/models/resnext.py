"""Residual networks of grouped convolutions, for small images."""

from __future__ import annotations

from torch import nn

from varigrad.lab.models.initial import he_normal
from varigrad.lab.models.resnet import Residual


def resnext(classes: int, groups: int = 8, widening: int = 4, blocks: int = 1) -> nn.Sequential:
    """The "ResNeXt-18" of the VSGD paper: three stages of 256, 512 and 1,024 channels.

    The paper's depth of 18 leaves one block in each stage: eleven layers with weights. A block's inner width is
    groups·channels/widening: 512, 1,024 and 2,048.

    Args:
        classes: Number of classes.
        groups: Groups of the 3x3 convolutions (the cardinality).
        widening: Factor on the 64, 128 and 256 channels of the stages.
        blocks: Blocks in each stage.

    Example:
        >>> sum(p.numel() for p in resnext(classes=100).parameters())
        11086756
    """
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    inputs = 64
    for stage in range(3):
        outputs = 64 * 2**stage * widening
        for index in range(blocks):
            stride = 2 if stage and not index else 1
            width = groups * outputs // widening
            branch = nn.Sequential(
                nn.Conv2d(inputs, width, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=groups, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )
            layers.append(Residual(branch, inputs, outputs, stride))
            inputs = outputs
    line = nn.Linear(inputs, classes)
    nn.init.kaiming_normal_(line.weight)
    nn.init.zeros_(line.bias)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), line)
    he_normal(model, "fan_out")
    return model
