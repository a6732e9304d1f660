"""Initial weights that several of the papers' networks share."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn


def between_fans(model: nn.Module) -> None:
    """Start as the SVGD authors' program does: weights from a truncated normal distribution, biases at 0.

    The standard deviation is √(2/(in + out)) with the numbers of channels: for a convolution the size of its kernel
    does not count. Like TensorFlow's, the distribution is cut off at two standard deviations and not rescaled.
    """
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            std = math.sqrt(2 / (layer.weight.shape[0] + layer.weight.shape[1]))
            truncated_normal(layer, std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def truncated_normal(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    """Draw the weights from a normal distribution cut off at two standard deviations."""
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)


def he_normal(model: nn.Module, mode: Literal["fan_in", "fan_out"]) -> None:
    """Draw the weights of all convolutions from He's normal distribution for ReLU.

    Args:
        model: Its convolutions are initialised; norm layers keep scale 1 and shift 0.
        mode: `"fan_in"` or `"fan_out"`.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
