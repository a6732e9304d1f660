"""What the state of an optimizer says of the gradient: how large its mean is, and how far a mini-batch strays from it.

The variance that a moving average of noisy gradients has itself is taken off its square, so that a gradient that is
nothing but noise has a mean near zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from varigrad.svag import MSVAG, SVAG, AdamStar, averaging
from varigrad.vsgd import VSGD, ConstantVSGD

__all__ = ["KNOWN", "Moments", "moments"]

KNOWN: tuple[type[torch.optim.Optimizer], ...] = (VSGD, ConstantVSGD, SVAG, MSVAG, AdamStar)
"""The optimizers that keep a mean and a variance of the gradient."""


class Moments(NamedTuple):
    """Sums over the weights of a parameter, as 0-dim tensors.

    Attributes:
        mean_square: Of the squared mean of the gradient; an estimate, which noise can push below zero.
        variance: Of the variance of the gradient of one mini-batch.
    """

    mean_square: Tensor
    variance: Tensor


def moments(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], param: Tensor) -> Moments | None:
    """Returns the moments of a parameter's gradient.

    Args:
        optimizer: One of `KNOWN`.
        group: The parameter group.
        param: A parameter of that group.

    Returns:
        The moments, or None where there are none: before the first step, where a moving average has seen one gradient
        only or has β = 0, and with `variance="batch"`, which keeps the variance of something else.
    """
    state = optimizer.state.get(param)
    if not state or group.get("variance") == "batch":
        return None
    mean = _real(state["mean"])
    if isinstance(optimizer, (VSGD, ConstantVSGD)):
        # At rest v_o = (1-w) E[(g-μ)²] and v_g = w E[(g-μ)²]. Of that expectation v_g/2 is the variance of μ itself.
        observation_var = _real(state["observation_var"])
        if isinstance(optimizer, VSGD):
            mean_variance = _real(state["systematic_var"]) / 2
        else:
            mean_variance = observation_var / (2 * group["variance_ratio"])
        variance = observation_var + mean_variance
    else:
        step, beta = state["step"].item(), group["beta"]
        if step < 2 or beta == 0:
            return None
        square = _real(state["deviation"]).square()
        variance = averaging(beta, step, momentum=False)["variance_factor"] * square  # "Dissecting Adam", Eq. 22
        mean_variance = averaging(beta, step, momentum=True)["variance_factor"] * square  # times ρ, Eq. 21
    return Moments((mean.square() - mean_variance).sum(), variance.sum())


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
