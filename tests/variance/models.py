"""Networks small enough for a gradient per sample, and those gradients one by one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Problem = tuple[nn.Module, Any, Tensor]


class Encoder(nn.Module):
    """An embedding with a padding symbol, a transformer block and a head; the sequence first if told so."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.embedding = nn.Embedding(9, 6, padding_idx=0)
        self.block = nn.TransformerEncoderLayer(6, 2, 12, dropout=0.0, batch_first=batch_first)
        self.head = nn.Linear(6, 2)

    def forward(self, symbols: Tensor) -> Tensor:
        if not self.batch_first:
            symbols = symbols.t()
        return self.head(self.block(self.embedding(symbols)).mean(1 if self.batch_first else 0))


class CrossAttention(nn.Module):
    """Projections of three widths, and one parameter in slices."""

    def __init__(self) -> None:
        super().__init__()
        self.packed = nn.MultiheadAttention(6, 2, batch_first=True)
        self.separate = nn.MultiheadAttention(6, 3, kdim=4, vdim=5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.packed(x[:, :3], x, x, need_weights=False)[0]
        x, weights = self.separate(x, x[..., :4], x[..., 1:])
        return torch.cat((x.mean(1), weights.flatten(1)), 1)


class Reused(nn.Module):
    """One linear layer called three times, and a convolution called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(5, 5)
        self.convolution = nn.Conv1d(1, 1, 3, padding=1)
        self.norm = nn.LayerNorm(5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.line(x))
        x = self.norm(torch.tanh(self.convolution(x.unsqueeze(1)).squeeze(1)))
        x = self.line(torch.stack((x, 2 * x), 1)).sum(1)
        return self.line(self.norm(torch.tanh(self.convolution(x.unsqueeze(1)).squeeze(1))))


class Tied(nn.Module):
    """A language model whose output layer has the weight of its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, symbols: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(symbols))).flatten(1)


def _flat(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten())


def _convnet() -> nn.Module:
    return _flat(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.Conv2d(8, 8, (3, 2), padding=(2, 1), dilation=2, groups=4),
        nn.Tanh(),
        nn.Conv2d(8, 4, 3, stride=(2, 1), padding="valid", bias=False),
    )


BUILDERS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "mlp": lambda: (nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)), torch.randn(11, 5)),
    "few positions": lambda: (_flat(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)), torch.randn(6, 3, 5)),
    "many positions": lambda: (_flat(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)), torch.randn(6, 2, 9, 5)),
    "convnet": lambda: (_convnet(), torch.randn(6, 3, 9, 11)),
    "convolution in 1d": lambda: (
        _flat(nn.Conv1d(4, 6, 4, padding="same", dilation=3, groups=2), nn.Tanh(), nn.InstanceNorm1d(6, affine=True)),
        torch.randn(5, 4, 13),
    ),
    "convolution in 3d": lambda: (
        _flat(nn.Conv3d(2, 3, 2, stride=2, padding=1, padding_mode="circular")),
        torch.randn(4, 2, 5, 4, 3),
    ),
    "transposed": lambda: (
        _flat(
            nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 2, (2, 3), dilation=2, output_padding=1),
        ),
        torch.randn(5, 4, 4, 3),
    ),
    "transposed in 1d": lambda: (_flat(nn.ConvTranspose1d(3, 2, 3, stride=3)), torch.randn(4, 3, 5)),
    "embedding": lambda: (_flat(nn.Embedding(9, 3, padding_idx=-2)), torch.randint(9, (7, 5))),
    "embedding of one symbol": lambda: (_flat(nn.Embedding(4, 3)), torch.randint(4, (7,))),
    "norms": lambda: (
        _flat(
            *(nn.RMSNorm((4, 6)), nn.Tanh(), nn.LayerNorm(6), nn.Tanh(), nn.GroupNorm(2, 4), nn.Tanh()),
            *(nn.InstanceNorm1d(4, affine=True), nn.Tanh()),
        ),
        torch.randn(5, 4, 6),
    ),
    "frozen batch norm": lambda: (
        _flat(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4).eval(), nn.Tanh()),
        torch.randn(5, 2, 6, 6),
    ),
    "transformer": lambda: (Encoder(), torch.randint(9, (5, 7))),
    "attention": lambda: (CrossAttention(), torch.randn(5, 4, 6)),
    "reused": lambda: (Reused(), torch.randn(6, 5)),
    "tied": lambda: (Tied(), torch.randint(7, (5, 4))),
}


def problem(name: str, dtype: torch.dtype = torch.float64) -> Problem:
    """A network, inputs and targets, the same every time, for `loss_of`."""
    torch.manual_seed(0)
    model, inputs = BUILDERS[name]()
    model = model.double()
    with torch.no_grad():
        for param in model.parameters():  # no parameter is 0 or 1, as biases and scales are at first
            param.add_(0.1 * torch.randn_like(param))
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        targets = torch.randn_like(model(inputs))
    return model.to(dtype), inputs.to(dtype) if inputs.is_floating_point() else inputs, targets.to(dtype)


loss_of = functional.mse_loss
"""The mean over samples; every sample has as many numbers."""


def single_gradients(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The gradient of every sample's loss, by one backward pass for each: (M, *shape)."""
    names, params = zip(*((name, p) for name, p in model.named_parameters() if p.requires_grad), strict=True)
    rows = [
        torch.autograd.grad(loss_of(model(inputs[n : n + 1]), targets[n : n + 1]), params) for n in range(len(targets))
    ]
    return {name: torch.stack(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def variance_of_mean(samples: Tensor) -> Tensor:
    """The unbiased variance of the mean of independent samples, written out."""
    m = len(samples)
    mean = samples.sum(0) / m
    return ((samples - mean) ** 2).sum(0) / (m - 1) / m


def error(ours: Tensor, exact: Tensor) -> float:
    """The largest difference against the largest value."""
    return ((ours.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-300)).item()


def assert_variances(model: nn.Module, exact: dict[str, Tensor], samples: int, tolerance: float = 1e-10) -> None:
    """Every parameter has this variance from so many samples."""
    for name, param in model.named_parameters():
        assert param.grad_variance.shape == param.shape
        assert param.grad_samples == samples
        assert error(param.grad_variance, exact[name]) <= tolerance, name
