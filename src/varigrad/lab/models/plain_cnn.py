"""The two plain convolutional networks of "Dissecting Adam", problems P1 and P2."""

from __future__ import annotations

from torch import nn

from varigrad.lab.models.initial import truncated_normal


def cnn_2c2d() -> nn.Sequential:
    """Two 5x5 convolutions and two lines, for 28x28 grey images: 3,274,634 parameters (P1).

    Max pooling of 3x3 areas with stride 2 after each convolution, as the paper has it (DeepOBS: 2x2). Paddings and
    initial values, which the paper omits, are those of DeepOBS: borders filled up, weights from a truncated normal
    distribution of standard deviation 0.05, biases at 0.05.

    Example:
        >>> sum(p.numel() for p in cnn_2c2d().parameters())
        3274634
    """
    model = nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=5, padding=2),
        nn.ReLU(),
        _pool(),
        nn.Conv2d(32, 64, kernel_size=5, padding=2),
        nn.ReLU(),
        _pool(),
        nn.Flatten(),
        nn.Linear(7 * 7 * 64, 1024),
        nn.ReLU(),
        nn.Linear(1024, 10),
    )
    for layer in model:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            truncated_normal(layer, 0.05)
            nn.init.constant_(layer.bias, 0.05)  # type: ignore[arg-type] # they have one
    return model


def cnn_3c3d() -> nn.Sequential:
    """Three convolutions and three lines, for 32x32 colour images: 895,210 parameters (P2).

    Max pooling of 3x3 areas with stride 2 after each convolution. Paddings and initial values are those of DeepOBS:
    only the third convolution fills up its borders; Glorot's normal distribution in the convolutions, his uniform one
    in the lines, biases at 0.

    Example:
        >>> sum(p.numel() for p in cnn_3c3d().parameters())
        895210
    """
    model = nn.Sequential(
        nn.Conv2d(3, 64, kernel_size=5),
        nn.ReLU(),
        _pool(),
        nn.Conv2d(64, 96, kernel_size=3),
        nn.ReLU(),
        _pool(),
        nn.Conv2d(96, 128, kernel_size=3, padding=1),
        nn.ReLU(),
        _pool(),
        nn.Flatten(),
        nn.Linear(3 * 3 * 128, 512),
        nn.ReLU(),
        nn.Linear(512, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_normal_(layer.weight)
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return model


def _pool() -> nn.MaxPool2d:
    # Rounding up is TensorFlow's padding here: windows begin at the first pixel, the last one is cut.
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)
