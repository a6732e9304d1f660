"""The optimizers that can be compared: one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

import varigrad
from varigrad.lab.errors import unknown_name
from varigrad.lab.ladder import ladder


@dataclass(frozen=True)
class OptimizerRow:
    """An optimizer as the lab knows it.

    Attributes:
        name: What the command line calls it.
        optimizer: The class, called with the parameters, `lr`, `weight_decay` and `arguments`.
        summary: What it does, in one line.
        source: The paper, and where in it.
        rates: The learning rates tried first, from low to high.
        arguments: Fixed keyword arguments; everything else stays at the class's defaults.
        derived: Further keyword arguments, from the learning rate and the batch size.
        takes_model: Whether the class is called with the model instead of its parameters.
    """

    name: str
    optimizer: type[torch.optim.Optimizer]
    summary: str
    source: str
    rates: tuple[float, ...]
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    derived: Callable[[float, int], Mapping[str, Any]] = lambda lr, batch_size: MappingProxyType({})
    takes_model: bool = False

    @property
    def class_name(self) -> str:
        """The class to import, such as `"torch.optim.AdamW"`."""
        kind = self.optimizer
        package = "torch.optim" if kind.__module__.startswith("torch.optim.") else kind.__module__.split(".")[0]
        return f"{package}.{kind.__name__}"

    def build(self, model: nn.Module, lr: float, weight_decay: float, batch_size: int) -> torch.optim.Optimizer:
        """The optimizer for all parameters of `model`."""
        make: Callable[..., torch.optim.Optimizer] = self.optimizer  # their keywords differ from the base class's
        params = model if self.takes_model else model.parameters()
        return make(params, lr=lr, weight_decay=weight_decay, **self.keywords(lr, batch_size))

    def keywords(self, lr: float, batch_size: int) -> dict[str, Any]:
        """What the class is called with besides the learning rate and the weight decay."""
        return {**self.derived(lr, batch_size), **self.arguments}


def _bayesian(lr: float, batch_size: int) -> Mapping[str, Any]:
    """The paper's experiments have lr = 1e-3 and sgd_lr = 0.1; on a ladder their ratio stays."""
    return {"sgd_lr": 100 * lr, "batch_size": batch_size}


def _authors_scale(lr: float, batch_size: int) -> Mapping[str, Any]:
    """The settings of the authors' program in ours, as `SVGD.authors` has them: 0.1 and 1e-6 there."""
    return {"scale": 0.1 * batch_size, "eps": 1e-6 * batch_size**2}


# Seven rungs for everybody: an equal budget. Plain SGD's useful rates lie ten times higher.
NORMALISED = ladder(1e-4, 1e-1)
PLAIN = ladder(1e-3, 1e0)

_ROWS = (
    OptimizerRow(
        "vsgd",
        varigrad.VSGD,
        "gradients as noisy observations, both variances learned",
        "Chen et al. 2024, Algorithm 1",
        NORMALISED,
    ),
    OptimizerRow(
        "constant-vsgd",
        varigrad.ConstantVSGD,
        "VSGD with a constant ratio of the two variances",
        "Chen et al. 2024, Algorithm 2",
        NORMALISED,
    ),
    OptimizerRow(
        "adamw",
        torch.optim.AdamW,
        "Adam with decoupled weight decay",
        "Loshchilov and Hutter 2019, Algorithm 2",
        NORMALISED,
    ),
    OptimizerRow(
        "sgd",
        torch.optim.SGD,
        "stochastic gradient descent with momentum 0.9",
        "Polyak 1964; Sutskever et al. 2013, Eqs. 1-2",
        PLAIN,
        {"momentum": 0.9},
    ),
    OptimizerRow(
        "adam",
        torch.optim.Adam,
        "running mean over root of running mean square",
        "Kingma and Ba 2015, Algorithm 1",
        NORMALISED,
    ),
    OptimizerRow(
        "rmsprop",
        torch.optim.RMSprop,
        "gradient over root of running mean square",
        "Tieleman and Hinton 2012, lecture 6.5",
        NORMALISED,
    ),
    OptimizerRow(
        "nadamw",
        torch.optim.NAdam,
        "AdamW with Nesterov momentum",
        "Dozat 2016, Algorithm 2",
        NORMALISED,
        {"decoupled_weight_decay": True},
    ),
    OptimizerRow(
        "adagrad",
        torch.optim.Adagrad,
        "gradient over root of the sum of squares",
        "Duchi et al. 2011, Figure 1",
        PLAIN,
    ),
    OptimizerRow(
        "adabayes",
        varigrad.AdaBayes,
        "a Bayesian filter for each weight, between SGD and Adam",
        "Aitchison 2020, Algorithm 1",
        NORMALISED,
        derived=_bayesian,
    ),
    OptimizerRow(
        "adabayes-fp",
        varigrad.AdaBayesFP,
        "AdaBayes with its variance at the fixed point",
        "Aitchison 2020, Algorithm 2, Eq. 21",
        NORMALISED,
        derived=_bayesian,
    ),
    OptimizerRow(
        "svag",
        varigrad.SVAG,
        "SGD damped by each gradient's relative variance",
        "Balles and Hennig 2018, Algorithm 3, Eq. 23",
        PLAIN,
    ),
    OptimizerRow(
        "msvag",
        varigrad.MSVAG,
        "momentum SGD damped by its relative variance",
        "Balles and Hennig 2018, Algorithm 1, Eq. 25",
        PLAIN,
    ),
    OptimizerRow(
        "adam-star",
        varigrad.AdamStar,
        "sign of the mean damped by its relative deviation",
        "Balles and Hennig 2018, Algorithm 4, Eq. 8",
        NORMALISED,
    ),
    OptimizerRow(
        "msgd",
        varigrad.MSGD,
        "SGD along the debiased moving average",
        "Balles and Hennig 2018, Algorithm 2, Eq. 4",
        PLAIN,
    ),
    OptimizerRow(
        "ssd",
        varigrad.SSD,
        "sign of the gradient",
        "Balles and Hennig 2018, Sec. 2",
        NORMALISED,
    ),
    OptimizerRow(
        "mssd",
        varigrad.MSSD,
        "sign of the moving average",
        "Balles and Hennig 2018, Algorithm 2, Eq. 4",
        NORMALISED,
    ),
    OptimizerRow(
        "svgd",
        varigrad.SVGD,
        "SGD along virtual gradients, in the scale of the authors' program",
        "Li and Shu 2019, Algorithm 1",
        PLAIN,
        derived=_authors_scale,
        takes_model=True,
    ),
)

OPTIMIZERS: Mapping[str, OptimizerRow] = MappingProxyType({row.name: row for row in _ROWS})


def find_optimizer(name: str) -> OptimizerRow:
    """The row called `name`.

    Raises:
        LabError: There is none; the message lists those there are.

    Example:
        >>> find_optimizer("sgd").rates
        (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    """
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name]
