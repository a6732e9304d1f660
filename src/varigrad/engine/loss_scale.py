"""Stepping on gradients of a scaled loss: what `torch.amp.GradScaler` leaves to an optimizer that can do it.

An optimizer that cannot has its gradients divided by the scale beforehand, in a pass over memory of its own, and its
step is not called where one of them is not finite, which the host must wait for. One that can finds the scale and what
was found as tensors, its attributes `grad_scale` and `found_inf`, for the time of the step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["UNSCALED", "LossScale", "loss_scale"]


class LossScale(NamedTuple):
    """What is to be done about the scale of the loss in one step.

    Attributes:
        inverse: What each gradient is to be multiplied by; a 0-dim tensor where it is on the device.
        found: Whether a gradient is not finite, so that nothing may change; a 0-dim tensor of float32, which is not
            zero then, where it is on the device.
    """

    inverse: float | Tensor = 1.0
    found: bool | Tensor = False


UNSCALED = LossScale()


def loss_scale(optimizer: torch.optim.Optimizer) -> LossScale:
    """Returns what a GradScaler has left to the step that is about to be taken.

    Args:
        optimizer: The optimizer.

    Raises:
        RuntimeError: If the scaler has not seen a gradient.
    """
    scale, found = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
    if scale is None and found is None:
        return UNSCALED
    if not isinstance(found, Tensor):  # the sum over no devices at all
        raise RuntimeError(
            f"{type(optimizer).__name__}: the GradScaler has found no gradients before the step; was there a backward "
            "pass, or were the parameters stepped in it (varigrad.step_in_backward), which a GradScaler cannot serve?"
        )
    # In the precision and the order of torch's own unscaling.
    inverse = torch.ones(()) if scale is None else scale.double().reciprocal().float()
    if found.device.type == "cpu":
        return LossScale(inverse.item(), bool(found != 0))
    return LossScale(inverse.double(), found.reshape(()))
