"""What each optimizer here makes of the moments that AdamW has learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from varigrad.adabayes import AdaBayes, AdaBayesFP
from varigrad.adaptive import AdaptiveVSGD
from varigrad.convert.adam import Moments
from varigrad.engine.optimizer import RuleOptimizer
from varigrad.sign import MSGD, MSSD, SSD
from varigrad.svag import MSVAG, SVAG, AdamStar
from varigrad.vsgd import VSGD, ConstantVSGD

__all__ = ["TARGETS", "Target"]

Group = Mapping[str, Any]
State = dict[str, Tensor]


def _double_shape(group: Group) -> float:
    """Returns 2a of Eq. 17, which is 2a - 1 with the a of Eq. 36."""
    return float(2 * (group["prior_strength"] + 0.5 + group["shape_offset"]))


def _vsgd(observation_var: Tensor, moments: Moments) -> State:
    """Returns the state with this observation variance and a gain of 1 - β₁."""
    systematic_var = observation_var * ((1 - moments.beta) / moments.beta)
    return {"mean": moments.mean, "systematic_var": systematic_var, "observation_var": observation_var}


def vsgd_for_step(moments: Moments, optimizer: RuleOptimizer, group: Group) -> State:
    """Returns the state whose σ² = w v_o is v - m², so that √(μ² + σ²) is AdamW's √v."""
    # What the prior adds in one step by Eq. 21, below which no v_o can be.
    least = 2 * group["variance_ratio"] * group["prior_strength"] / _double_shape(group)
    least *= optimizer.scalars(moments.step, group, {})["rho2"]
    return _vsgd(moments.excess / (1 - moments.beta) + least, moments)


def vsgd_for_noise(moments: Moments, optimizer: RuleOptimizer, group: Group) -> State:
    """Returns the state in which Eq. 19 and 21 stand still: (2a - w) v_o = 2Kγ + (1-w)² E[(g - m)²]."""
    gain = 1 - moments.beta
    rate = 2 * group["variance_ratio"] * group["prior_strength"] + (1 - gain) ** 2 * moments.surprise
    return _vsgd(rate / (_double_shape(group) - gain), moments)


def constant_vsgd_for_step(moments: Moments, optimizer: RuleOptimizer, group: Group) -> State:
    """Returns the state whose σ² = w v is v - m², so that √(μ² + σ²) is AdamW's √v."""
    # What the prior adds in one step by Eq. 37, below which no v can be.
    least = 2 * group["prior_strength"] / (_double_shape(group) + 1)
    least *= optimizer.scalars(moments.step, group, {})["rho"]
    return {"mean": moments.mean, "observation_var": moments.excess / (1 - moments.beta) + least}


def constant_vsgd_for_noise(moments: Moments, optimizer: RuleOptimizer, group: Group) -> State:
    """Returns the state in which Eq. 37 stands still: (2a - 1) v = 2γ + (1-w) E[(g - m)²]."""
    rate = 2 * group["prior_strength"] + moments.beta * moments.surprise
    return {"mean": moments.mean, "observation_var": rate / _double_shape(group)}


def _adaptive_vsgd(observation_var: Tensor, moments: Moments) -> State:
    """Returns the state with this observation variance and a gain of 1 - β₁, from which it learns on."""
    nothing = moments.mean.new_zeros(())
    return {
        "mean": moments.mean,
        # Adam does not know the signs of the last innovations: the first pairs of signs agree by chance.
        "deviation": observation_var.sqrt(),
        "gain": nothing + (1 - moments.beta),
        "agreement": nothing,
        "pairs": nothing.clone(),
    }


def adaptive_vsgd_for_step(moments: Moments, optimizer: RuleOptimizer, group: Group) -> State:
    """Returns the state whose σ² = w v is v - m², so that √(μ² + σ²) is AdamW's √v."""
    return _adaptive_vsgd(moments.excess / (1 - moments.beta), moments)


def adaptive_vsgd_for_noise(moments: Moments, optimizer: RuleOptimizer, group: Group) -> State:
    """Returns the state in which the average of (1-w) e² stands still."""
    return _adaptive_vsgd(moments.beta * moments.surprise, moments)


def adabayes(moments: Moments, optimizer: RuleOptimizer, group: Group) -> State:
    """Returns the posterior variance p at which Eq. 17b and 18a stand still: G k p² + (1 - k + G a) p = a."""
    batch_size, lr = group["batch_size"], float(group["lr"])
    mean = batch_size * moments.mean
    if lr == 0.0:  # a negative variance is one that the first rate above 0 will set
        return {"mean": mean, "posterior_var": torch.full_like(mean, -1.0)}
    scalars = optimizer.scalars(moments.step, {**group, "lr": lr}, {})
    kept, added = scalars["kept"], scalars["added"]
    square = batch_size**2 * moments.square
    linear = 1 - kept + added * square
    root = (linear * linear + 4 * kept * added * square).sqrt()
    return {"mean": mean, "posterior_var": 2 * added / (linear + root)}


def adabayes_fp(moments: Moments, optimizer: RuleOptimizer, group: Group) -> State:
    """Returns the two averages as they are."""
    return {"mean": moments.mean, "mean_square": moments.square}


def mean_and_deviation(moments: Moments, optimizer: RuleOptimizer, group: Group) -> State:
    """Returns the mean and √(v - m²), which has the same expectation with one decay as with two."""
    return {"mean": moments.mean, "deviation": moments.excess.sqrt()}


def mean_alone(moments: Moments, optimizer: RuleOptimizer, group: Group) -> State:
    """Returns the mean."""
    return {"mean": moments.mean}


def nothing(moments: Moments, optimizer: RuleOptimizer, group: Group) -> State:
    """Returns no state: there is none."""
    return {}


@dataclass(frozen=True)
class Target:
    """How AdamW's state becomes that of one optimizer.

    Attributes:
        kind: The optimizer.
        state: The state whose next steps are AdamW's, as far as the method allows.
        settings: The hyperparameters that mean the same as AdamW's betas and eps, from those.
        for_noise: The state whose variances are those of the noise, where that is another one; such an optimizer
            needs a mean that is not the last gradient alone.
        same_rate: Whether lr means exactly what AdamW's does.
    """

    kind: type[RuleOptimizer]
    state: Callable[[Moments, RuleOptimizer, Group], State]
    settings: Callable[[float, float, float], dict[str, Any]]
    for_noise: Callable[[Moments, RuleOptimizer, Group], State] | None = None
    same_rate: bool = False

    @property
    def states(self) -> tuple[str, ...]:
        """The names of the state tensors that there is a conversion to."""
        return self.kind.rule.state


def _ratio(beta1: float, beta2: float, eps: float) -> dict[str, Any]:
    return {"variance_ratio": beta1 / (1 - beta1), "eps": eps}


def _beta(beta1: float, beta2: float, eps: float) -> dict[str, Any]:
    return {"beta": beta1}


def _betas(beta1: float, beta2: float, eps: float) -> dict[str, Any]:
    return {"betas": (beta1, beta2)}


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "vsgd": Target(VSGD, vsgd_for_step, lambda *adam: {"eps": adam[2]}, vsgd_for_noise),
        "constant-vsgd": Target(ConstantVSGD, constant_vsgd_for_step, _ratio, constant_vsgd_for_noise),
        "adaptive-vsgd": Target(AdaptiveVSGD, adaptive_vsgd_for_step, lambda *adam: {}, adaptive_vsgd_for_noise),
        "adabayes": Target(AdaBayes, adabayes, _beta, same_rate=True),
        "adabayes-fp": Target(AdaBayesFP, adabayes_fp, _betas, same_rate=True),
        "svag": Target(SVAG, mean_and_deviation, _beta),
        "msvag": Target(MSVAG, mean_and_deviation, _beta),
        "adam-star": Target(AdamStar, mean_and_deviation, _beta),
        "msgd": Target(MSGD, mean_alone, _beta),
        "ssd": Target(SSD, nothing, lambda *adam: {}),
        "mssd": Target(MSSD, mean_alone, _beta),
    }
)
"""The optimizers that AdamW's state can become, by the names that the lab has for them."""
