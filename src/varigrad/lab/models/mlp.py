"""Multi-layer perceptrons."""

from __future__ import annotations

import itertools

from torch import nn


def mlp(*sizes: int, batch_norm: bool = False) -> nn.Sequential:
    """A fully connected network with ReLU between its layers.

    Args:
        *sizes: Width of the input, of every hidden layer and of the output: two or more, each at least 1.
        batch_norm: Normalise before every ReLU.

    Example:
        >>> model = mlp(784, 256, 128, 64, 32, 10, batch_norm=True)  # the network of the SVGD paper, section 6.1
        >>> sum(p.numel() for p in model.parameters())
        245482
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        layers.append(nn.Linear(inputs, outputs))
        if batch_norm:
            layers.append(nn.BatchNorm1d(outputs))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))
