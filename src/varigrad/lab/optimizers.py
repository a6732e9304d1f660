"""The optimizers that can be compared: one row each."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import nn

import varigrad
from varigrad.lab.errors import LabError, unknown_name
from varigrad.lab.ladder import ladder
from varigrad.lab.minibatch import MinibatchMSVAG
from varigrad.lab.muon import MuonAndAdamW


class Elsewhere(torch.optim.Optimizer):
    """A class of a package that the lab can do without: imported when it is called, which gives an instance of it.

    Attributes:
        project: The package, as it is installed.
    """

    project: ClassVar[str]

    def __new__(cls, *args: Any, **arguments: Any) -> Any:
        """An instance of the real class."""
        return getattr(importlib.import_module(cls.__module__), cls.__name__)(*args, **arguments)

    @classmethod
    def named(cls, package: str, name: str, project: str) -> type[Elsewhere]:
        """The class called `name` in `package`, which `pip install project` installs."""
        return type(name, (cls,), {"__module__": package, "project": project})

    @classmethod
    def is_installed(cls) -> bool:
        """Whether the package is there."""
        return importlib.util.find_spec(cls.__module__) is not None


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
        schedule_free: Whether it needs no falling learning rate: a cosine schedule then stays up after its warm-up.
    """

    name: str
    optimizer: type[torch.optim.Optimizer]
    summary: str
    source: str
    rates: tuple[float, ...]
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    derived: Callable[[float, int], Mapping[str, Any]] = lambda lr, batch_size: MappingProxyType({})
    takes_model: bool = False
    schedule_free: bool = False

    @property
    def class_name(self) -> str:
        """The class to import, such as `"torch.optim.AdamW"`."""
        kind = self.optimizer
        if kind.__module__.startswith("varigrad.lab."):
            return f"{kind.__module__}.{kind.__name__}"
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


def _bounded(lr: float, batch_size: int) -> Mapping[str, Any]:
    """The paper's experiments have lr = 1e-3 and final_lr = 0.1; on a ladder their ratio stays."""
    return {"final_lr": 100 * lr}


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
        "adaptive-vsgd",
        varigrad.AdaptiveVSGD,
        "VSGD with a gain for each tensor, learned from the signs of innovations",
        "this library; Mehra 1970",
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
        "msvag-batch",
        MinibatchMSVAG,
        "M-SVAG with the variance inside each mini-batch",
        "Balles and Hennig 2018, Algorithm 5",
        PLAIN,
        takes_model=True,
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
    OptimizerRow(
        "amsgrad",
        torch.optim.Adam,
        "Adam over the root of the highest mean square so far",
        "Reddi et al. 2018, Algorithm 2",
        NORMALISED,
        {"amsgrad": True},
    ),
    OptimizerRow(
        "muon",
        MuonAndAdamW,
        "orthogonalised momentum for inner matrices, AdamW for the rest",
        "Jordan et al. 2024; Liu et al. 2025, Algorithm 1",
        NORMALISED,
        takes_model=True,
    ),
    OptimizerRow(
        "adabound",
        Elsewhere.named("pytorch_optimizer", "AdaBound", "pytorch-optimizer"),
        "Adam whose step sizes are clipped between bounds that close on SGD's",
        "Luo et al. 2019, Algorithm 2",
        NORMALISED,
        derived=_bounded,
    ),
    OptimizerRow(
        "amsbound",
        Elsewhere.named("pytorch_optimizer", "AdaBound", "pytorch-optimizer"),
        "AdaBound over the highest mean square so far",
        "Luo et al. 2019, Algorithm 3",
        NORMALISED,
        {"ams_bound": True},
        derived=_bounded,
    ),
    OptimizerRow(
        "schedule-free",
        Elsewhere.named("schedulefree", "AdamWScheduleFree", "schedulefree"),
        "AdamW evaluated at an average of its path, instead of a falling rate",
        "Defazio et al. 2024, Algorithm 1",
        NORMALISED,
        schedule_free=True,
    ),
)

# Rows whose package is not installed are known by name only, with what to install.
_MISSING = {
    row.name: row.optimizer.project
    for row in _ROWS
    if issubclass(row.optimizer, Elsewhere) and not row.optimizer.is_installed()
}
OPTIMIZERS: Mapping[str, OptimizerRow] = MappingProxyType({row.name: row for row in _ROWS if row.name not in _MISSING})


def find_optimizer(name: str) -> OptimizerRow:
    """The row called `name`.

    Raises:
        LabError: There is none, and the message lists those there are; or its package is not installed.

    Example:
        >>> find_optimizer("sgd").rates
        (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    """
    if name in _MISSING:
        raise LabError(f"optimizer {name!r} is not installed: pip install {_MISSING[name]}")
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name]
