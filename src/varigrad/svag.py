"""SVAG, MSVAG and AdamStar: steps that shrink where the gradient's variance is large against its mean.

All three are from "Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients" (Balles and Hennig 2018).
They learn mean and variance of the gradient by one weighted Welford recursion: squared differences never cancel, and
the standard deviation is kept rather than the variance, so that no scale of gradients underflows.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# A rule has no types of its own: it is run on tensors, on numbers and on the symbols that trace it.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .engine.batch_variance import batch_variance
from .engine.belief import Belief
from .engine.hyperparameters import Accepts, Interval, OneOf, SwitchOr
from .engine.operations import Scalar
from .engine.optimizer import RuleOptimizer
from .engine.rule import Rule, hypotenuse, rule, sign, sqrt, where
from .sign import debiasing_weight

__all__ = ["MSVAG", "SVAG", "AdamStar"]


def observe(grad, mean, deviation, weight):
    """Takes one gradient into its mean and into √(v - m²), both debiased moving averages (Eq. 4 and 5)."""
    difference = grad - mean
    mean = mean + weight * difference
    deviation = sqrt(1 - weight) * hypotenuse(deviation, sqrt(weight) * difference)
    return mean, deviation


def relative(deviation, mean):
    """Returns deviation / |mean|; zero where the mean is, so that a weight without a gradient stays where it is."""
    return where(abs(mean) > 0, deviation / mean, 0.0)


@rule(state=("mean", "deviation"))
def svag(param, grad, mean, deviation, *, lr, weight, variance_factor):
    mean, deviation = observe(grad, mean, deviation, weight)
    noise = relative(deviation, mean)
    factor = 1 / (1 + variance_factor * (noise * noise))  # Eq. 23
    return param - lr * (factor * grad), mean, deviation


@rule(state=("mean", "deviation"))
def msvag(param, grad, mean, deviation, *, lr, weight, variance_factor):
    mean, deviation = observe(grad, mean, deviation, weight)
    noise = relative(deviation, mean)
    factor = 1 / (1 + variance_factor * (noise * noise))  # Eq. 25
    return param - lr * (factor * mean), mean, deviation


@rule(state=("mean", "variance"), inputs=("batch_variance",))
def msvag_batch(param, grad, mean, variance, *, lr, weight, square_weight, variance_factor, batch_variance):
    mean = mean + weight * (grad - mean)
    variance = variance + square_weight * (batch_variance - variance)  # Eq. 67
    noise = relative(sqrt(variance), mean)
    factor = 1 / (1 + variance_factor * (noise * noise))  # Algorithm 5
    return param - lr * (factor * mean), mean, variance


@rule(state=("mean", "deviation"))
def adam_star(param, grad, mean, deviation, *, lr, weight, variance_factor):
    mean, deviation = observe(grad, mean, deviation, weight)
    noise = relative(deviation, mean)
    return param - lr * (sign(mean) / sqrt(1 + variance_factor * (noise * noise))), mean, deviation  # Eq. 8


@rule(state=("mean", "deviation"))
def adam_star_plain(param, grad, mean, deviation, *, lr, weight, variance_factor):
    mean, deviation = observe(grad, mean, deviation, weight)
    noise = relative(deviation, mean)
    return param - lr * (sign(grad) / sqrt(1 + variance_factor * (noise * noise))), mean, deviation  # Eq. 8


def averaging(beta: float, step: Scalar, momentum: bool) -> dict[str, Scalar]:
    """Returns the weight of the newest of k gradients, and what turns v - m² into the variance that a step must fear.

    With ρ = (1-β)(1+β^k) / ((1+β)(1-β^k)) of Eq. 21 the variance of a gradient is s = (v - m²) / (1-ρ) (Eq. 22), that
    of the moving average m is ρ s. The first gradient shows no variance, nor does any if β = 0: v - m² is 0 then,
    whatever the factor, and the step that of SGD or of its sign.

    Args:
        beta: β, in [0, 1).
        step: k, from 1.
        momentum: Whether the step is along m, and so to fear ρ s, or along g, and so to fear s.
    """
    weight = debiasing_weight(beta, step)
    if beta == 0.0:
        return {"weight": weight, "variance_factor": 0.0}
    power = beta**step
    numerator = (1.0 - beta) * (1.0 + power) if momentum else (1.0 + beta) * (1.0 - power)
    # 1 - β^(k-1), but any other number at k = 1, where it is 0 and v - m² is 0 too.
    earlier = where(step > 1, 1.0 - power / beta, 1.0)
    return {"weight": weight, "variance_factor": numerator / (2.0 * beta * earlier)}


def averaged(mean: Tensor, moving_variance: Tensor, beta: float, step: Scalar) -> Belief:
    """Returns the belief of a debiased moving average m and the v - m² that goes with it.

    Args:
        mean: m, with decay β.
        moving_variance: v - m², where v is any debiased average of squared gradients.
        beta: β.
        step: k, from 1.
    """
    if beta == 0.0 or (not isinstance(step, Tensor) and step == 1):
        return Belief(mean)  # a single gradient shows no variance
    if isinstance(step, Tensor):
        moving_variance = torch.where(step > 1, moving_variance, torch.nan)
    variance = averaging(beta, step, momentum=False)["variance_factor"] * moving_variance  # Eq. 22
    mean_noise = averaging(beta, step, momentum=True)["variance_factor"] * moving_variance
    return Belief(mean, mean_noise, variance, mean_noise=mean_noise)


class SVAG(RuleOptimizer):
    r"""Stochastic variance-adapted gradient: SGD whose every coordinate is damped by its relative variance.

    The damping γ = 1/(1 + s/m²) minimises the expected squared distance of the damped gradient from the true one.
    With k counting the parameter's own steps from 1, w = (1-β)/(1-β^k), and from m = S = 0:

        d ← g - m;   m ← m + w d;   S ← (1-w)(S + w d²)              v - m² of Eq. 4 and 5, debiased
        s = S (1+β)(1-β^k) / (2β (1-β^(k-1))),   s = 0 at k = 1      Eq. 22
        θ ← θ (1 - lr weight_decay) - lr g / (1 + s/m²)              Eq. 23; no step where m = 0

    The state "deviation" is √S. The first step is exactly θ - lr g.

    Args:
        params: Parameters, named parameters, or dictionaries that define parameter groups; every argument below may
            be set per group.
        lr: Learning rate, of the order of SGD's; a number or 0-dim tensor in [0, ∞).
        beta: Decay of the moving averages, in [0, 1); 0 is plain SGD.
        weight_decay: Decoupled weight decay, as in AdamW; in [0, ∞).
        rounding, state_dtype, maximize, foreach, fused, capturable, differentiable: As in `VSGD`.

    Raises:
        TypeError: If an argument has the wrong type, or a group an unknown key.
        ValueError: If an argument is out of its range, or there are no parameters.
        RuntimeError: If a gradient is sparse, or flags exclude each other.

    Reference:
        Balles and Hennig 2018: Dissecting Adam, Algorithm 3, which the text lacks: Algorithm 1 with the factors of
        Eq. 23 and along the gradient itself (Sec. C.1).

    Example:
        >>> import torch, varigrad
        >>> weight = torch.ones(2, requires_grad=True)
        >>> optimizer = varigrad.SVAG([weight], lr=0.25)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight
        tensor([0.5000, 0.5000], requires_grad=True)
    """

    rule = svag
    accepts: ClassVar[dict[str, Accepts]] = {"beta": Interval(0.0, 1.0, open_high=True)}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.1,
        beta: float = 0.9,
        weight_decay: float = 0.0,
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
        """Returns the learning rate, the weight of the newest gradient and the factor 1 / (1-ρ) of Eq. 22."""
        return {"lr": group["lr"], **averaging(group["beta"], step, momentum=False)}

    def believe(self, group: Mapping[str, Any], step: Scalar, state: Mapping[str, Tensor], param: Tensor) -> Belief:
        """Returns m, ρ s and s of Eq. 21 and 22."""
        return averaged(state["mean"], state["deviation"].square(), group["beta"], step)


class MSVAG(RuleOptimizer):
    r"""Momentum stochastic variance-adapted gradient: the moving average, damped by its relative variance.

    The damping γ = 1/(1 + ρ s/m²) minimises the expected squared distance of the damped average from the true gradient,
    where ρ s is the variance of the average. With k counting the parameter's own steps from 1, w = (1-β)/(1-β^k), and
    from m = S = 0:

        d ← g - m;   m ← m + w d;   S ← (1-w)(S + w d²)                     v - m² of Eq. 4 and 5, debiased
        ρ s = S (1-β)(1+β^k) / (2β (1-β^(k-1))),   ρ s = 0 at k = 1         Eq. 21 and 22
        θ ← θ (1 - lr weight_decay) - lr m / (1 + ρ s/m²)                   Eq. 25; no step where m = 0

    The state "deviation" is √S. The first step is exactly θ - lr g, and no step is longer than `MSGD`'s.

    Args:
        params: Parameters, named parameters, or dictionaries that define parameter groups; every argument below may
            be set per group.
        lr: Learning rate, of the order of SGD's, not of Adam's; a number or 0-dim tensor in [0, ∞).
        beta: Decay of the moving averages, in [0, 1); 0 is plain SGD.
        weight_decay: Decoupled weight decay, as in AdamW; in [0, ∞).
        variance: "stream" learns the variance over time (Algorithm 1). "batch" takes it from inside each mini-batch
            (Algorithm 5): beside `p.grad` it reads `p.grad_variance`, its unbiased variance, shaped like p, from
            `p.grad_samples` samples, at least 2. Then s is the average of those with decay β², and ρ that of Eq. 21 at
            every step, the first and β = 0 included: its first step is not SGD's. Eq. 64 as printed is biased.
        rounding, state_dtype, maximize, foreach, fused, capturable, differentiable: As in `VSGD`.

    Raises:
        TypeError: If an argument has the wrong type, or a group an unknown key.
        ValueError: If an argument is out of its range, or there are no parameters, or `p.grad_samples` is below 2.
        RuntimeError: If a gradient is sparse, flags exclude each other, or `variance="batch"` finds no variance.

    Reference:
        Balles and Hennig 2018: Dissecting Adam, Algorithm 1 and, for `variance="batch"`, Algorithm 5.

    Example:
        >>> import torch, varigrad
        >>> weight = torch.ones(2, requires_grad=True)
        >>> optimizer = varigrad.MSVAG([weight], lr=0.25)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight
        tensor([0.5000, 0.5000], requires_grad=True)
    """

    rule = msvag
    accepts: ClassVar[dict[str, Accepts]] = {
        "beta": Interval(0.0, 1.0, open_high=True),
        "variance": OneOf(("stream", "batch")),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.1,
        beta: float = 0.9,
        weight_decay: float = 0.0,
        *,
        variance: str = "stream",
        rounding: str = "stochastic",
        state_dtype: torch.dtype | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, locals())

    def rule_for(self, group: Mapping[str, Any]) -> Rule:
        """Returns the rule of Algorithm 1 or that of Algorithm 5."""
        return msvag_batch if group["variance"] == "batch" else msvag

    def scalars(self, step: Scalar, group: Mapping[str, Any], memory: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns the learning rate, the weights of the newest gradient and variance, and ρ/(1-ρ) or ρ."""
        beta = group["beta"]
        if group["variance"] == "stream":
            return {"lr": group["lr"], **averaging(beta, step, momentum=True)}
        return {
            "lr": group["lr"],
            "weight": debiasing_weight(beta, step),
            "square_weight": debiasing_weight(beta**2, step),
            "variance_factor": (1.0 - beta) * (1.0 + beta**step) / ((1.0 + beta) * (1.0 - beta**step)),
        }

    def inputs(self, group: Mapping[str, Any], param: Tensor, name: Callable[[], str]) -> dict[str, Tensor]:
        """Returns the variance inside the mini-batch for `variance="batch"`."""
        if group["variance"] == "stream":
            return {}
        variance, _ = batch_variance(param, "MSVAG(variance='batch')", name, least=2)
        return {"batch_variance": variance}

    def believe(self, group: Mapping[str, Any], step: Scalar, state: Mapping[str, Tensor], param: Tensor) -> Belief:
        """Returns m, ρ s and s of Eq. 21 and 22 or, for `variance="batch"`, of Eq. 21 and 67."""
        if group["variance"] == "stream":
            return averaged(state["mean"], state["deviation"].square(), group["beta"], step)
        mean_noise = self.scalars(step, group, {})["variance_factor"] * state["variance"]
        return Belief(state["mean"], mean_noise, state["variance"], mean_noise=mean_noise)


class AdamStar(RuleOptimizer):
    r"""Adam*, the variance-adapted sign of the moving average: Adam with one β and its variance estimate done right.

    The damping 1/√(1 + ρ s/m²) of the sign is Adam's own, if Adam's two moving averages had one decay and ρ were one.
    With k counting the parameter's own steps from 1, w = (1-β)/(1-β^k), and from m = S = 0:

        d ← g - m;   m ← m + w d;   S ← (1-w)(S + w d²)                     v - m² of Eq. 4 and 5, debiased
        ρ s = S (1-β)(1+β^k) / (2β (1-β^(k-1))),   ρ s = 0 at k = 1         Eq. 21 and 22
        θ ← θ (1 - lr weight_decay) - lr sign(m) / √(1 + ρ s/m²)            Eq. 8 and 9; no step where m = 0

    The state "deviation" is √S. There is no eps, so that the steps do not depend on the scale of the gradients. The
    first step is exactly sign descent's, and no weight moves further than lr.

    Args:
        params: Parameters, named parameters, or dictionaries that define parameter groups; every argument below may
            be set per group.
        lr: Learning rate, the largest change of a weight in one step, of the order of Adam's; a number or 0-dim tensor
            in [0, ∞).
        beta: Decay of the moving averages, in [0, 1); 0 is `SSD`.
        weight_decay: Decoupled weight decay, as in AdamW; in [0, ∞).
        momentum: False takes the sign of the gradient itself, damped by 1/√(1 + s/m²). A number in [0, 1) takes the
            place of `beta`; that is what torch's OneCycleLR and CyclicLR make of it.
        rounding, state_dtype, maximize, foreach, fused, capturable, differentiable: As in `VSGD`.

    Raises:
        TypeError: If an argument has the wrong type, or a group an unknown key.
        ValueError: If an argument is out of its range, or there are no parameters.
        RuntimeError: If a gradient is sparse, or flags exclude each other.

    Reference:
        Balles and Hennig 2018: Dissecting Adam, Algorithm 4, which the text lacks: Sec. C.2 with Eq. 8, where it
        prints (1 + η)^(-1/2) for (1 + η²)^(-1/2).

    Example:
        >>> import torch, varigrad
        >>> weight = torch.tensor([3.0, 0.0, -2.0], requires_grad=True)
        >>> optimizer = varigrad.AdamStar([weight], lr=0.5)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight
        tensor([ 2.5000,  0.0000, -1.5000], requires_grad=True)
    """

    rule = adam_star
    accepts: ClassVar[dict[str, Accepts]] = {
        "beta": Interval(0.0, 1.0, open_high=True),
        "momentum": SwitchOr(Interval(0.0, 1.0, open_high=True)),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        beta: float = 0.9,
        weight_decay: float = 0.0,
        *,
        momentum: bool | float = True,
        rounding: str = "stochastic",
        state_dtype: torch.dtype | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, locals())

    def rule_for(self, group: Mapping[str, Any]) -> Rule:
        """Returns the rule along the sign of the average or that along the sign of the gradient."""
        return adam_star_plain if group["momentum"] is False else adam_star

    def scalars(self, step: Scalar, group: Mapping[str, Any], memory: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns the learning rate, the weight of the newest gradient, and ρ/(1-ρ) or 1/(1-ρ)."""
        return {"lr": group["lr"], **averaging(group["beta"], step, momentum=group["momentum"] is not False)}

    def believe(self, group: Mapping[str, Any], step: Scalar, state: Mapping[str, Tensor], param: Tensor) -> Belief:
        """Returns m, ρ s and s of Eq. 21 and 22."""
        return averaged(state["mean"], state["deviation"].square(), group["beta"], step)
