"""VSGD and ConstantVSGD: the true gradient, inferred from noisy ones by stochastic variational inference.

Both are from "Variational Stochastic Gradient Descent for Deep Neural Networks" (Chen, Kuzina, Esmaeili and Tomczak).
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
from .engine.hyperparameters import Accepts, Interval, OneOf, Pair
from .engine.operations import Scalar
from .engine.optimizer import RuleOptimizer
from .engine.rule import Rule, minimum, rule, sqrt

__all__ = ["VSGD", "ConstantVSGD"]

# A single gradient of 1e20 must leave a large variance behind, not an infinite one that makes every later gain NaN.
LARGEST_VARIANCE = 1e37


@rule(state=("mean", "systematic_var", "observation_var"), optional=("spread",))
def vsgd(
    param,
    grad,
    mean,
    systematic_var,
    observation_var,
    *,
    lr,
    rho1,
    rho2,
    prior_strength,
    variance_ratio,
    shape,
    eps,
    spread=None,
):
    gain = systematic_var / (systematic_var + observation_var)
    innovation = grad - mean
    change = gain * innovation
    residual = innovation - change
    mean = mean + change  # Eq. 15
    posterior_var = gain * observation_var  # Eq. 16
    change_square, residual_square = change * change, residual * residual
    if spread is not None:  # Eq. 71 to 74: the average over single samples, whose population variance is the spread
        change_square = change_square + gain * gain * spread
        residual_square = residual_square + (1 - gain) * (1 - gain) * spread
    change_rate = 2 * prior_strength + posterior_var + change_square  # Eq. 18, times 2
    noise_rate = 2 * variance_ratio * prior_strength + posterior_var + residual_square  # Eq. 19, times 2
    systematic_var = (1 - rho1) * systematic_var + rho1 / (2 * shape) * change_rate  # Eq. 20, over Eq. 17
    observation_var = (1 - rho2) * observation_var + rho2 / (2 * shape) * noise_rate  # Eq. 21, over Eq. 17
    param = param - lr * (mean / (sqrt(mean * mean + posterior_var) + eps))  # Eq. 24
    return param, mean, minimum(systematic_var, LARGEST_VARIANCE), minimum(observation_var, LARGEST_VARIANCE)


@rule(state=("mean", "observation_var"))
def constant_vsgd(param, grad, mean, observation_var, *, lr, rho, prior_strength, variance_ratio, shape, eps):
    gain = 1 / (variance_ratio + 1)
    innovation = grad - mean
    mean = mean + gain * innovation  # Eq. 34
    posterior_var = gain * observation_var  # Eq. 35
    # Eq. 37, times 2: with this gain, (1 + K) σ² is the old variance, and r² + K d² is (1 - gain) e².
    noise_rate = 2 * prior_strength + observation_var + (1 - gain) * (innovation * innovation)
    observation_var = (1 - rho) * observation_var + rho / (2 * shape) * noise_rate  # over Eq. 36
    param = param - lr * (mean / (sqrt(mean * mean + posterior_var) + eps))  # Eq. 38
    return param, mean, minimum(observation_var, LARGEST_VARIANCE)


def filtered(mean: Tensor, systematic_var: Tensor, observation_var: Tensor, samples: int | None = 1) -> Belief:
    """Returns the belief of a filter whose gain is w = v_g / (v_g + v_o), at rest.

    The innovation ĝ - μ has 2/(2-w) of the variance R of ĝ, and v_g + v_o is its variance; with M samples it is that
    and the variance (M-1) R inside the batch. The mean keeps w/(2-w) of R.

    Args:
        mean: μ.
        systematic_var: v_g.
        observation_var: v_o.
        samples: M, where the variances are those of M single samples; None where that is not known.
    """
    gain = systematic_var / (systematic_var + observation_var)
    posterior_var = gain * observation_var
    if samples is None:
        return Belief(mean, posterior_var, None, systematic_var, gain=gain)
    share = gain / (2 - gain)
    if samples == 1:
        variance = observation_var + systematic_var / 2
    else:
        variance = (systematic_var + observation_var) / (2 / (2 - gain) + (samples - 1))
    return Belief(mean, posterior_var, variance, systematic_var, share * variance, gain)


class VSGD(RuleOptimizer):
    r"""Variational stochastic gradient descent: follows the posterior mean of the true gradient.

    The gradient of a mini-batch is taken for a noisy observation of the true gradient, which itself drifts from step to
    step. Stochastic variational inference learns, for every weight, how large the two kinds of noise are; from them
    follow how far to trust the new observation and how certain the resulting estimate is.

    With t counting the parameter's own steps from 1, ρ₁ = t^-κ₁, ρ₂ = t^-κ₂, a = γ + ½ + δ, and from μ = 0,
    v_g = γ/(γ+δ), v_o = K γ/(γ+δ):

        w   = v_g / (v_g + v_o)                                   gain
        d   = w (g - μ);   μ ← μ + d;   r = g - μ                 Eq. 15
        σ²  = w v_o                                               Eq. 16
        v_g ← (1 - ρ₁) v_g + ρ₁ (2γ   + σ² + d²) / 2a             Eq. 17, 18, 20
        v_o ← (1 - ρ₂) v_o + ρ₂ (2Kγ + σ² + r²) / 2a              Eq. 17, 19, 21
        θ   ← θ (1 - lr weight_decay) - lr μ / (√(μ² + σ²) + eps) Eq. 24

    **The default learning rate** of 1e-2 is the one that served both tasks it was chosen on, in a grid of factor 3 from
    1e-4 to 1e-1 with three seeds: a final validation loss of 0.0513 on MNIST (6,000 steps; the best was 0.0493, at
    3e-3) and of 0.0748 on digits (300 steps; the best was 0.0577, at 3e-2). The best rates of AdamW were 1e-2 and 3e-2.
    The runs are in `results/learning-rate/`.

    **Moving over from AdamW.** Replace `torch.optim.AdamW(params, lr=x, weight_decay=y)` by
    `varigrad.VSGD(params, lr=x, weight_decay=y)`: both rates bound the movement of a weight per step and are of the
    same order, so that AdamW's is the one to begin with; then try a third and three times of it. Weight decay means
    the same, but AdamW's default of 0.01 is not the default here. There is no (β₁, β₂) to carry over: the momentum is
    1 - w, and follows from what is learned. One thing does not carry over: AdamW does not care about the scale of the
    loss, VSGD does. Its prior is absolute, so that a loss that is summed rather than averaged, or multiplied by 100,
    trains differently.

    Args:
        params: Parameters, named parameters, or dictionaries that define parameter groups; every argument below may
            be set per group.
        lr: Learning rate η, the largest change of a weight in one step; a number or 0-dim tensor in [0, ∞).
        kappas: Decay exponents (κ₁, κ₂) of the averaging rates of the systematic and the observation variance, each
            in (0.5, 1]. The paper's Table 3 has them the other way round from its text and its code.
        prior_strength: γ, how many observations the prior is worth; in [1e-30, ∞).
        variance_ratio: K_g, the prior ratio of observation variance to systematic variance; in (0, ∞).
        shape_offset: δ, added to the shape of the Gamma distributions; in [0, ∞). The default is that of the authors'
            program; 0 is Algorithm 1 as printed, where γ drops out of the first step and σ² starts near 1.
        eps: Added to the denominator; in [0, ∞).
        weight_decay: Decoupled weight decay, as in AdamW; in [0, ∞).
        variance: "stream" learns both variances over time. "batch" treats the samples of the mini-batch separately
            (appendix A.3): beside `p.grad`, the mean over M samples, it reads `p.grad_variance`, the unbiased variance
            of that mean, shaped like p, and `p.grad_samples`, which is M. In the equations d² becomes d² + w² V and
            r² becomes r² + (1-w)² V, with V = (M-1) grad_variance the population variance of the samples.
        rounding: How parameters of 16 bits are written, in which a small step may be less than half a unit of the last
            place: "stochastic" goes up or down such that the step is right in expectation; "kahan" keeps what is lost
            in a further state tensor of 16 bits; "nearest" loses it, as torch's own optimizers do.
        state_dtype: `torch.bfloat16` keeps the state in half the memory, rounded stochastically; None in float32, or in
            float64 for float64 parameters.
        maximize: Climb instead of descend.
        foreach: Run on lists of tensors; None where nothing fused serves, False for one tensor after the other.
        fused: Run compiled code, one pass over memory; None where it is available.
        capturable: Keep the step count on the device, so that a CUDA graph can capture the step.
        differentiable: Let autograd follow the step; slow.

    Raises:
        TypeError: If an argument has the wrong type, or a group an unknown key.
        ValueError: If an argument is out of its range, or there are no parameters.
        RuntimeError: If a gradient is sparse, flags exclude each other, or `variance="batch"` finds no variance.

    Reference:
        Chen, Kuzina, Esmaeili, Tomczak: Variational Stochastic Gradient Descent for Deep Neural Networks.
        Algorithm 1, Eq. 15 to 24; Eq. 19 is read with the moments of the true gradient, as derived in Eq. 69.

    Example:
        >>> import torch, varigrad
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = varigrad.VSGD(model.parameters(), lr=1e-2, weight_decay=1e-2)
        >>> loss = model(torch.ones(8, 3)).square().mean()
        >>> loss.backward()
        >>> optimizer.step()
        >>> sorted(optimizer.state[model.weight])
        ['mean', 'observation_var', 'step', 'systematic_var']
    """

    rule = vsgd
    accepts: ClassVar[dict[str, Accepts]] = {
        "kappas": Pair(Interval(0.5, 1.0, open_low=True)),
        "prior_strength": Interval(1e-30),
        "variance_ratio": Interval(open_low=True),
        "shape_offset": Interval(),
        "eps": Interval(),
        "variance": OneOf(("stream", "batch")),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        kappas: tuple[float, float] = (0.81, 0.9),
        prior_strength: float = 1e-8,
        variance_ratio: float = 30.0,
        shape_offset: float = 5e-5,
        eps: float = 1e-8,
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

    def scalars(self, step: Scalar, group: Mapping[str, Any], memory: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns the averaging rates of Eq. 22 and 23 and the shape of Eq. 17 beside the hyperparameters."""
        kappa1, kappa2 = group["kappas"]
        return {
            "lr": group["lr"],
            "rho1": step**-kappa1,
            "rho2": step**-kappa2,
            "prior_strength": group["prior_strength"],
            "variance_ratio": group["variance_ratio"],
            "shape": group["prior_strength"] + 0.5 + group["shape_offset"],
            "eps": group["eps"],
        }

    def start(self, group: Mapping[str, Any]) -> dict[str, float]:
        """Returns the prior's rates over its shape; the first step, where ρ = 1, replaces them wholly."""
        prior = group["prior_strength"] / (group["prior_strength"] + group["shape_offset"])
        return {"systematic_var": prior, "observation_var": group["variance_ratio"] * prior}

    def believe(self, group: Mapping[str, Any], step: Scalar, state: Mapping[str, Tensor], param: Tensor) -> Belief:
        """Returns μ, σ² of Eq. 16, v_g, and the variance of the observed gradient that v_g and v_o amount to."""
        if group["variance"] == "stream":
            return filtered(state["mean"], state["systematic_var"], state["observation_var"])
        return filtered(
            state["mean"], state["systematic_var"], state["observation_var"], getattr(param, "grad_samples", None)
        )

    def rule_for(self, group: Mapping[str, Any]) -> Rule:
        """Returns the rule, told to take the samples' spread for `variance="batch"`."""
        return vsgd.taking("spread") if group["variance"] == "batch" else vsgd

    def inputs(self, group: Mapping[str, Any], param: Tensor, name: Callable[[], str]) -> dict[str, Tensor]:
        """Returns the population variance of the samples' gradients for `variance="batch"`."""
        if group["variance"] == "stream":
            return {}
        variance, samples = batch_variance(param, "VSGD(variance='batch')", name)
        # One sample has no spread, whatever stands for its undefined variance.
        return {"spread": variance * (samples - 1) if samples > 1 else torch.zeros_like(variance)}


class ConstantVSGD(RuleOptimizer):
    r"""VSGD with a constant ratio of the two noises, and so with a constant momentum; one state tensor less.

    The observation variance is K times the systematic variance by assumption, so that the gain is 1/(1+K) for every
    weight at every step, and one variance remains to be learned. With K = β₁/(1-β₁) the mean is Adam's first moment
    without its bias correction.

    The default learning rate of 3e-3 was chosen like VSGD's: a final validation loss of 0.0501 on MNIST (the best was
    0.0487, at 3e-4) and of 0.0910 on digits (the best was 0.0660, at 1e-2).

    With t counting the parameter's own steps from 1, ρ = t^-κ, a = γ + 1 + δ, w = 1/(1+K), and from μ = 0,
    v = γ/(γ+δ):

        d  = w (g - μ);   μ ← μ + d;   r = g - μ                          Eq. 34
        σ² = w v                                                          Eq. 35
        v  ← (1 - ρ) v + ρ (2γ + σ² + r² + K (σ² + d²)) / 2a              Eq. 36, 37
        θ  ← θ (1 - lr weight_decay) - lr μ / (√(μ² + σ²) + eps)          Eq. 38

    Args:
        params: Parameters, named parameters, or dictionaries that define parameter groups; every argument below may
            be set per group.
        lr: Learning rate η, the largest change of a weight in one step; a number or 0-dim tensor in [0, ∞). What
            `VSGD` says about moving over from AdamW holds here too.
        kappa: Decay exponent κ of the averaging rate of the variance; in (0.5, 1]. The paper prints no value; the
            default is VSGD's for the observation variance.
        prior_strength: γ, how many observations the prior is worth; in [1e-30, ∞).
        variance_ratio: K_g, the ratio of observation variance to systematic variance; in (0, ∞).
        shape_offset: δ, added to the shape of the Gamma distribution; in [0, ∞). 0 is Algorithm 2 as printed.
        eps: Added to the denominator; in [0, ∞).
        weight_decay: Decoupled weight decay, as in AdamW; in [0, ∞).
        rounding: How parameters of 16 bits are written, in which a small step may be less than half a unit of the last
            place: "stochastic" goes up or down such that the step is right in expectation; "kahan" keeps what is lost
            in a further state tensor of 16 bits; "nearest" loses it, as torch's own optimizers do.
        state_dtype: `torch.bfloat16` keeps the state in half the memory, rounded stochastically; None in float32, or in
            float64 for float64 parameters.
        maximize: Climb instead of descend.
        foreach: Run on lists of tensors; None where nothing fused serves, False for one tensor after the other.
        fused: Run compiled code, one pass over memory; None where it is available.
        capturable: Keep the step count on the device, so that a CUDA graph can capture the step.
        differentiable: Let autograd follow the step; slow.

    Raises:
        TypeError: If an argument has the wrong type, or a group an unknown key.
        ValueError: If an argument is out of its range, or there are no parameters.
        RuntimeError: If a gradient is sparse, or flags exclude each other.

    Reference:
        Chen, Kuzina, Esmaeili, Tomczak: Variational Stochastic Gradient Descent for Deep Neural Networks.
        Algorithm 2, Eq. 33 to 38.

    Example:
        >>> import torch, varigrad
        >>> weight = torch.zeros(3, requires_grad=True)
        >>> optimizer = varigrad.ConstantVSGD([weight], lr=1e-2)
        >>> (weight - torch.tensor([1.0, 0.0, -1.0])).square().sum().backward()
        >>> optimizer.step()
        >>> (weight.abs() <= 1e-2).all().item()
        True
    """

    rule = constant_vsgd
    accepts: ClassVar[dict[str, Accepts]] = {
        "kappa": Interval(0.5, 1.0, open_low=True),
        "prior_strength": Interval(1e-30),
        "variance_ratio": Interval(open_low=True),
        "shape_offset": Interval(),
        "eps": Interval(),
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 3e-3,
        kappa: float = 0.9,
        prior_strength: float = 1e-8,
        variance_ratio: float = 30.0,
        shape_offset: float = 5e-5,
        eps: float = 1e-8,
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
        """Returns the averaging rate and the shape of Eq. 36 beside the hyperparameters."""
        return {
            "lr": group["lr"],
            "rho": step ** -group["kappa"],
            "prior_strength": group["prior_strength"],
            "variance_ratio": group["variance_ratio"],
            "shape": group["prior_strength"] + 1.0 + group["shape_offset"],
            "eps": group["eps"],
        }

    def start(self, group: Mapping[str, Any]) -> dict[str, float]:
        """Returns the prior's rate over its shape; the first step, where ρ = 1, replaces it wholly."""
        return {"observation_var": group["prior_strength"] / (group["prior_strength"] + group["shape_offset"])}

    def believe(self, group: Mapping[str, Any], step: Scalar, state: Mapping[str, Tensor], param: Tensor) -> Belief:
        """Returns μ, σ² of Eq. 35 and the variances, of which the systematic one is v / K by assumption."""
        return filtered(state["mean"], state["observation_var"] / group["variance_ratio"], state["observation_var"])
