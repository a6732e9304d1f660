"""AdaptiveVSGD: VSGD whose gain is learned, one per tensor, from how successive innovations agree in sign.

VSGD's own equations leave the gain where it happens to be: they look at the size of the innovations alone, and every
gain explains that equally well. What tells one gain from another is whether successive innovations are correlated
(Mehra 1970). The page "AdaptiveVSGD" of the documentation derives the rule.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# A rule has no types of its own: it is run on tensors, on numbers and on the symbols that trace it.

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .engine.hyperparameters import Accepts, Switch
from .engine.operations import Scalar
from .engine.optimizer import RuleOptimizer
from .engine.rule import Rule, copysign, hypotenuse, maximum, rule, sign, sqrt, where

__all__ = ["AdaptiveVSGD"]


def observe(grad, mean, deviation, weight, rate):
    """Takes one gradient into its mean, into the deviation of its noise, and into what the gain is learned from.

    A deviation is never negative, so that its sign is free: it is that of the last innovation.
    """
    innovation = grad - mean
    # A gradient of zero says that a weight was not used: the sign stays, and makes no pair.
    used = abs(grad) > 0
    latest = where(used, innovation, deviation)
    pairs = sign(abs(where(used, deviation, 0.0)))  # none yet where there is no deviation
    agreement = copysign(pairs, latest) * copysign(pairs, deviation)
    spread = hypotenuse(sqrt(1 - rate) * deviation, sqrt(rate * (1 - weight)) * innovation)
    return mean + weight * innovation, copysign(spread, latest), agreement, pairs  # Eq. 15


def move(param, direction, deviation, lr, weight):
    """Moves by lr direction / √(direction² + σ²), with the variance σ² = w v of the mean."""
    side = sign(direction)
    noise = sqrt(weight) * deviation / (direction + (1 - abs(side)))  # not 0/0
    return param - lr * (side / sqrt(1 + noise * noise))  # Eq. 16, 24


@rule(state=("mean", "deviation"), statistics=("agreement", "pairs"), memory=("gain",))
def adaptive_vsgd(param, grad, mean, deviation, *, lr, weight, rate):
    mean, deviation, agreement, pairs = observe(grad, mean, deviation, weight, rate)
    return move(param, mean, deviation, lr, weight), mean, deviation, agreement, pairs


@rule(state=("mean", "deviation"), statistics=("agreement", "pairs"), memory=("gain",))
def adaptive_vsgd_nesterov(param, grad, mean, deviation, *, lr, weight, rate):
    mean, deviation, agreement, pairs = observe(grad, mean, deviation, weight, rate)
    ahead = mean + weight * (grad - mean)
    return move(param, ahead, deviation, lr, weight), mean, deviation, agreement, pairs


class AdaptiveVSGD(RuleOptimizer):
    r"""Variational stochastic gradient descent with a gain that is learned, one for each tensor.

    To be written.
    """

    rule = adaptive_vsgd
    accepts: ClassVar[dict[str, Accepts]] = {"nesterov": Switch()}

    start_gain: ClassVar[float] = 0.5
    """The gain of the first steps. It is forgotten."""

    gain_rate: ClassVar[float] = 0.3
    """How far the logit of the gain moves in one step if all signs agree."""

    gain_bounds: ClassVar[tuple[float, float]] = (0.005, 0.9)
    """Where the gain stops, so that it can come back in a few steps."""

    prior_pairs: ClassVar[float] = 10.0
    """How many pairs of undecided signs each step's evidence has added, so that a few elements have little weight."""

    least_rate: ClassVar[float] = 1e-3
    """The averaging rate of the noise, once there have been so many steps."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 3e-3,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        rounding: str = "stochastic",
        state_dtype: torch.dtype | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, locals())

    def scalars(self, step: Scalar, group: Mapping[str, Any], memory: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns the gain as the signs of the last step have left it, and the averaging rate of the noise."""
        low, high = self.gain_bounds
        evidence = memory["agreement"] / (memory["pairs"] + self.prior_pairs)
        odds = memory["gain"] / (1.0 - memory["gain"]) * torch.exp(self.gain_rate * evidence)
        gain = torch.clamp(odds / (1.0 + odds), low, high)
        # The first gradient says nothing of the noise: the second is the first of the average.
        earlier = where(step > 1, step - 1.0, 1.0)
        return {
            "lr": group["lr"],
            "gain": gain,
            "weight": torch.clamp(gain, min=1.0 / step),
            "rate": maximum(1.0 / earlier, self.least_rate),
        }

    def start(self, group: Mapping[str, Any]) -> dict[str, float]:
        """Returns the gain to start from."""
        return {"gain": self.start_gain}

    def rule_for(self, group: Mapping[str, Any]) -> Rule:
        """Returns the rule, with or without a look ahead."""
        return adaptive_vsgd_nesterov if group["nesterov"] else adaptive_vsgd
