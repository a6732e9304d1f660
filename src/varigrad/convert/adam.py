"""What the state of torch's Adam and AdamW says of a gradient: checked, and read.

The gradients of the last steps are taken to have had a steady mean and a steady variance s² (Assumption 1 of
"Dissecting Adam", Balles and Hennig 2018). Then E[v - m²] = (1-ρ) s², whatever the two decays are, where ρ of its
Eq. 21, with β₁, is the share of s² that the average m itself carries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["GROUP_KEYS", "Moments", "check", "read"]

GROUP_KEYS = frozenset(
    (
        *("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay"),
        *("foreach", "fused", "capturable", "differentiable"),
    )
)
"""Adam's own keys of a parameter group; all others are the user's, a scheduler's or names."""

NEEDED = frozenset(("params", "lr", "betas", "eps", "weight_decay", "amsgrad"))
MOMENTS = frozenset(("step", "exp_avg", "exp_avg_sq"))


@dataclass(frozen=True)
class Moments:
    """What AdamW has learned about the gradient of one parameter: float64, a complex number as two real ones.

    Attributes:
        mean: m, the debiased moving average of the gradient.
        square: v, the debiased moving average of its square.
        root: What AdamW divides m by, eps included.
        beta: β₁, the decay of the average that m is.
        step: t, from 1.
    """

    mean: Tensor
    square: Tensor
    root: Tensor
    beta: float
    step: float

    @property
    def excess(self) -> Tensor:
        """What v has above m²: nothing after one step, nor where a gradient has grown so fast that m² is above v."""
        excess = (self.square - self.mean * self.mean).clamp(min=0.0)
        return excess if self.step > 1 else torch.zeros_like(excess)

    @property
    def surprise(self) -> Tensor:
        """E[(g - m)²] of the next gradient g: (1+ρ) s², where (1+ρ)/(1-ρ) is (1-β^(t+1)) / (β - β^t)."""
        if self.step == 1:
            return self.excess
        power: float = self.beta**self.step
        ratio = (1 - self.beta * power) / (self.beta - power)
        return ratio * self.excess


def check(state_dict: object) -> None:
    """Raises unless this is a state dict of Adam's or AdamW's whose weight decay is decoupled.

    Args:
        state_dict: What is said to be one.

    Raises:
        TypeError: If it is no state dict.
        ValueError: If it is another optimizer's, broken, or its weight decay is part of the gradient.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"convert_state's state_dict must be what AdamW's state_dict() returned, not {type(state_dict).__name__}"
        )
    if missing := {"state", "param_groups"} - state_dict.keys():
        raise ValueError(
            f"convert_state's state_dict must be what AdamW's state_dict() returned, but it has no {_listed(missing)}; "
            f"it has {_listed(state_dict)}"
        )
    state, keys = state_dict["state"], set()
    for index, group in enumerate(state_dict["param_groups"]):
        _check_group(index, group)
        keys.update(group["params"])
        for key in group["params"]:
            if state.get(key):
                _check_held(key, state[key])
    if left := state.keys() - keys:
        raise ValueError(f"the state dict is broken: it holds state for {_listed(left)}, which no parameter group has")


def _check_group(index: int, group: Mapping[str, Any]) -> None:
    if missing := NEEDED - group.keys():
        raise ValueError(
            f"the state dict is not that of torch's Adam or AdamW: parameter group {index} has no {_listed(missing)}; "
            "other optimizers keep other averages, or step otherwise with them"
        )
    if group["weight_decay"] != 0 and not group.get("decoupled_weight_decay", False):
        raise ValueError(
            f"the weight_decay = {group['weight_decay']} of parameter group {index} is not accepted where "
            "decoupled_weight_decay is not True: Adam's decay is part of the gradient, that of the optimizers here is "
            "not. If this is AdamW's, saved by a version of torch that does not note it, set decoupled_weight_decay "
            "to True in the group; if it is Adam's, set weight_decay to 0 there, and choose a decoupled one for the "
            "new optimizer afterwards"
        )


def _check_held(key: object, held: Mapping[str, Any]) -> None:
    if not MOMENTS <= held.keys() <= MOMENTS | {"max_exp_avg_sq"}:
        raise ValueError(
            f"the state dict is not that of torch's Adam or AdamW: for parameter {key} it holds {_listed(held)}, where "
            f"{_listed(MOMENTS)} are expected, with amsgrad also max_exp_avg_sq"
        )
    step = float(held["step"])
    if not math.isfinite(step) or step < 0 or step != int(step):
        raise ValueError(f"the state dict is broken: the step of parameter {key} is {step}")
    shape = held["exp_avg"].shape
    for name in sorted(held.keys() - {"step"}):
        if held[name].shape != shape:
            raise ValueError(
                f"the state dict is broken: {name} of parameter {key} has the shape {tuple(held[name].shape)}, its "
                f"exp_avg {tuple(shape)}"
            )
        values = _real(held[name])
        if not values.isfinite().all() or (name != "exp_avg" and (values < 0).any()):
            accepted = "finite numbers" if name == "exp_avg" else "finite numbers >= 0"
            raise ValueError(f"the state dict is broken: {name} of parameter {key} does not hold {accepted} alone")


def read(held: Mapping[str, Any], group: Mapping[str, Any]) -> Moments | None:
    """Returns the debiased moments of one parameter, or None if it has not been stepped.

    Args:
        held: What Adam keeps for it.
        group: Its parameter group.
    """
    step = float(held["step"]) if held else 0.0
    if step == 0:
        return None
    beta1, beta2 = map(float, group["betas"])
    debias = 1 / (1 - beta2**step)
    square = _real(held["exp_avg_sq"]) * debias
    divisor = _real(held["max_exp_avg_sq"]) * debias if "max_exp_avg_sq" in held else square
    return Moments(
        mean=_real(held["exp_avg"]) / (1 - beta1**step),
        square=square,
        root=divisor.sqrt() + float(group["eps"]),
        beta=beta1,
        step=step,
    )


def _real(tensor: Tensor) -> Tensor:
    """A tensor in float64, or in the best there is on its device; a complex one as pairs of real ones."""
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def _listed(names: Any) -> str:
    return ", ".join(sorted(map(str, names)))
