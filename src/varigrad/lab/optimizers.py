"""The optimizers that can be compared: one row each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

import varigrad
from varigrad.lab.errors import LabError, unknown_name
from varigrad.lab.ladder import ladder
from varigrad.lab.minibatch import MinibatchMSVAG
from varigrad.lab.muon import MuonAndAdamW
from varigrad.lab.optimizer_row import Elsewhere, OptimizerRow
from varigrad.lab.own_optimizers import NORMALISED, installed_optimizers, optimizers_from_file

__all__ = ["KNOWN", "OPTIMIZERS", "OptimizerRow", "all_optimizers", "find_optimizer", "find_optimizers"]

# Seven rungs for everybody: an equal budget. Plain SGD's useful rates lie ten times higher.
PLAIN = ladder(1e-3, 1e0)


def _bayesian(lr: float, batch_size: int, steps: int) -> Mapping[str, Any]:
    """The paper's experiments have lr = 1e-3 and sgd_lr = 0.1; on a ladder their ratio stays."""
    return {"sgd_lr": 100 * lr, "batch_size": batch_size}


def _authors_scale(lr: float, batch_size: int, steps: int) -> Mapping[str, Any]:
    """The settings of the authors' program in ours, as `SVGD.authors` has them: 0.1 and 1e-6 there."""
    return {"scale": 0.1 * batch_size, "eps": 1e-6 * batch_size**2}


def _bounded(lr: float, batch_size: int, steps: int) -> Mapping[str, Any]:
    """The paper's experiments have lr = 1e-3 and final_lr = 0.1; on a ladder their ratio stays."""
    return {"final_lr": 100 * lr}


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
        "adaptive-muon",
        varigrad.AdaptiveMuon,
        "Muon, every weight weighed by its noise, a momentum learned for each matrix",
        "this library; Jordan et al. 2024; Mehra 1970",
        NORMALISED,
        takes_model=True,
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
KNOWN = frozenset(row.name for row in _ROWS)  # whether installed or not
OPTIMIZERS: Mapping[str, OptimizerRow] = MappingProxyType({row.name: row for row in _ROWS if row.name not in _MISSING})


def all_optimizers() -> Mapping[str, OptimizerRow]:
    """Ours and those of installed packages.

    Raises:
        LabError: A package's entry point is none, or its optimizer has the name of another.
    """
    return {**OPTIMIZERS, **installed_optimizers(KNOWN)}


def find_optimizers(name: str) -> tuple[OptimizerRow, ...]:
    """The rows that `name` stands for: one, but for a Python file with several.

    Args:
        name: One of ours or of an installed package's; or `FILE.py` or `FILE.py:NAME` for those in a Python file.

    Raises:
        LabError: There is none, and the message lists those there are; or its package is not installed.

    Example:
        >>> [row.name for row in find_optimizers("sgd")]
        ['sgd']
    """
    if ".py" in name:
        return optimizers_from_file(name)
    if name in _MISSING:
        raise LabError(f"optimizer {name!r} is not installed: pip install {_MISSING[name]}")
    if name in OPTIMIZERS:
        return (OPTIMIZERS[name],)
    known = all_optimizers()
    if name not in known:
        raise unknown_name("optimizer", name, known)
    return (known[name],)


def find_optimizer(name: str) -> OptimizerRow:
    """The row called `name`, as `find_optimizers` has it.

    Raises:
        LabError: There is none, or there are several.

    Example:
        >>> find_optimizer("sgd").rates
        (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    """
    rows = find_optimizers(name)
    if len(rows) > 1:
        raise LabError(f"{name} has several optimizers: say which ({', '.join(row.name for row in rows)})")
    return rows[0]
