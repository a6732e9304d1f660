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

from .engine.belief import Belief
from .engine.hyperparameters import Accepts, Switch
from .engine.operations import Scalar
from .engine.optimizer import RuleOptimizer
from .engine.rule import Rule, copysign, hypotenuse, maximum, rule, sign, sqrt, where

__all__ = ["AdaptiveVSGD"]


LARGEST_SURPRISE = 4.0
"""What an innovation counts for at most, in standard deviations, where its size counts."""


def observe(grad, mean, deviation, weight, rate, threshold=None):
    """Takes one gradient into its mean, and into the deviation of its noise.

    A deviation is never negative, so that its sign is free: it says on which side of the threshold the last innovation
    was, without one on which side of zero. A gradient of zero says that a weight was not used, and leaves it.
    """
    innovation = grad - mean
    spread = hypotenuse(sqrt(1 - rate) * deviation, sqrt(rate * (1 - weight)) * innovation)
    news = innovation if threshold is None else innovation - threshold * spread
    latest = where(abs(grad) > 0, news, deviation)
    return mean + weight * innovation, copysign(spread, latest)  # Eq. 15


def compare_signs(grad, mean, deviation):
    """Whether this innovation has the sign of the last one, 1 or -1, and that it was compared: 1, else both are 0."""
    pairs = sign(abs(where(abs(grad) > 0, deviation, 0.0)))  # none yet where there is no deviation
    return copysign(pairs, grad - mean) * copysign(pairs, deviation), pairs


def compare_sizes(grad, mean, deviation):
    """This innovation in standard deviations, with the sign that the last one has left; and its square."""
    known = sign(abs(where(abs(grad) > 0, deviation, 0.0)))
    surprise = (grad - mean) / (abs(deviation) + (1 - known))  # not 0/0
    # What is not a number is too large as well: it must not spoil the sums.
    largest = copysign(LARGEST_SURPRISE * known, surprise)
    bounded = where(abs(surprise) < LARGEST_SURPRISE, known * surprise, largest)
    return bounded * copysign(known, deviation), bounded * bounded


def normalised(direction, noise):
    """Returns direction / √(direction² + noise²); its noise is √(w v) where it is that of the mean (Eq. 16 and 24)."""
    side = sign(direction)
    ratio = noise / (direction + (1 - abs(side)))  # not 0/0
    return side / sqrt(1 + ratio * ratio)


@rule(state=("mean", "deviation"), statistics=("agreement", "pairs"), memory=("gain",))
def adaptive_vsgd(param, grad, mean, deviation, *, lr, weight, rate):
    agreement, pairs = compare_signs(grad, mean, deviation)
    mean, deviation = observe(grad, mean, deviation, weight, rate)
    return param - lr * normalised(mean, sqrt(weight) * deviation), mean, deviation, agreement, pairs


@rule(state=("mean", "deviation"), statistics=("agreement", "pairs"), memory=("gain",))
def adaptive_vsgd_nesterov(param, grad, mean, deviation, *, lr, weight, rate):
    agreement, pairs = compare_signs(grad, mean, deviation)
    mean, deviation = observe(grad, mean, deviation, weight, rate)
    ahead = mean + weight * (grad - mean)
    return param - lr * normalised(ahead, sqrt(weight) * deviation), mean, deviation, agreement, pairs


@rule(state=("mean", "deviation"), statistics=("agreement", "energy"), memory=("gain",))
def adaptive_muon(param, grad, mean, deviation, *, lr, weight, rate, threshold):
    """Takes the noise for that of one gradient, as Adam does, and not for that of the mean."""
    agreement, energy = compare_sizes(grad, mean, deviation)
    mean, deviation = observe(grad, mean, deviation, weight, rate, threshold)
    return param - lr * normalised(mean, deviation), mean, deviation, agreement, energy


@rule(state=("mean", "deviation"), statistics=("agreement", "energy"), memory=("gain",))
def adaptive_muon_nesterov(param, grad, mean, deviation, *, lr, weight, rate, threshold):
    """The same, one step ahead."""
    agreement, energy = compare_sizes(grad, mean, deviation)
    mean, deviation = observe(grad, mean, deviation, weight, rate, threshold)
    ahead = mean + weight * (grad - mean)
    return param - lr * normalised(ahead, deviation), mean, deviation, agreement, energy


class AdaptiveVSGD(RuleOptimizer):
    r"""VSGD with a gain that is learned, one for each tensor, from how often successive innovations agree in sign.

    A mean that follows the gradient too slowly leaves innovations that agree with the ones before, one that follows too
    fast overshoots: where they are uncorrelated, the gain is that of the best filter. VSGD's own equations do not look
    at this, and leave the gain where it is.

    With t counting the parameter's own steps from 1, n the number of weights in a tensor whose last gradient was not
    zero, s the sign of the innovation e, and from m = v = 0, w = ½:

        c   = Σ s_{t-1} s_{t-2} / (n + 10)                       (2/π) asin of the correlation, for large n
        w   ← logit⁻¹(logit w + 0.3 c), in [0.005, 0.9]          one per tensor;   w_t = max(w, 1/t)
        e   = g - m;   m ← m + w_t e                             Eq. 15
        v   ← (1-r) v + r (1-w_t) e²,   r = max(1/(t-1), 0.001)  from the second gradient on
        u   = m, or m + w_t (g - m) with `nesterov`
        θ   ← θ (1 - lr weight_decay) - lr u / √(u² + w_t v)     Eq. 16, 24

    Nothing here has the unit of a gradient: the loss may be multiplied by a power of two, and no bit changes. A weight
    moves by at most lr in a step. The state is two tensors, as Adam's: `mean`, and `deviation`, which is √v with the
    sign of the last innovation. So v, the variance of the observed gradient around the true one, is its square. `gain`
    is w.

    The default learning rate of 3e-3 is near the best of short runs of small networks, which are on the page
    "Results" of the documentation.

    Args:
        params: Parameters, named parameters, or dictionaries that define parameter groups; every argument below may
            be set per group.
        lr: Learning rate η, the largest change of a weight in one step; a number or 0-dim tensor in [0, ∞).
        weight_decay: Decoupled weight decay, as in AdamW; in [0, ∞).
        nesterov: Step along the mean as it would be if the same gradient came again.
        rounding: How parameters of 16 bits are written, in which a small step may be less than half a unit of the last
            place: "stochastic" goes up or down such that the step is right in expectation; "kahan" keeps what is lost
            in a further state tensor of 16 bits; "nearest" loses it, as torch's own optimizers do.
        state_dtype: `torch.bfloat16` keeps the state in half the memory, rounded stochastically; None in float32, or in
            float64 for float64 parameters.
        maximize: Climb instead of descend.
        foreach: Run on lists of tensors; None where nothing fused serves, False for one tensor after the other.
        fused: Run compiled code, one pass over memory; None where it is available.
        capturable: Keep the step count on the device, so that a CUDA graph can capture the step.
        differentiable: Let autograd follow the step; slow. The gain is a constant to it: signs have no derivative.

    Raises:
        TypeError: If an argument has the wrong type, or a group an unknown key.
        ValueError: If an argument is out of its range, or there are no parameters.
        RuntimeError: If a gradient is sparse, or flags exclude each other.

    Reference:
        Mehra 1970: On the identification of variances and adaptive Kalman filtering. The mean and the step are those of
        Chen, Kuzina, Esmaeili, Tomczak: Variational Stochastic Gradient Descent for Deep Neural Networks, Eq. 15 to 24.

    Example:
        >>> import torch, varigrad
        >>> weight = torch.zeros(1000, requires_grad=True)
        >>> optimizer = varigrad.AdaptiveVSGD([weight], lr=1e-3)
        >>> for step in range(200):  # nothing but noise: the less a gradient is trusted, the better
        ...     weight.grad = torch.randn(1000)
        ...     optimizer.step()
        >>> (optimizer.state[weight]["gain"] < 0.1).item()
        True
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
        odds = memory["gain"] / (1.0 - memory["gain"]) * torch.exp(self.gain_rate * self.evidence(memory))
        gain = torch.clamp(odds / (1.0 + odds), low, high)
        # The first gradient says nothing of the noise: the second is the first of the average.
        earlier = where(step > 1, step - 1.0, 1.0)
        return {
            "lr": group["lr"],
            "gain": gain,
            "weight": torch.clamp(gain, min=1.0 / step),
            "rate": maximum(1.0 / earlier, self.least_rate),
        }

    def evidence(self, memory: Mapping[str, Tensor]) -> Tensor:
        """Returns how far the innovations of the last step agreed with those before, from -1 to 1; 0 if the gain fits.

        Args:
            memory: The statistics of each tensor.
        """
        return memory["agreement"] / (memory["pairs"] + self.prior_pairs)

    def start(self, group: Mapping[str, Any]) -> dict[str, float]:
        """Returns the gain to start from."""
        return {"gain": self.start_gain}

    def believe(self, group: Mapping[str, Any], step: Scalar, state: Mapping[str, Tensor], param: Tensor) -> Belief:
        """Returns m, its variance w v, the noise v, and the drift for which w is the best gain: v w²/(1-w)."""
        mean, variance = state["mean"], state["deviation"].square()
        gain = torch.clamp(state["gain"], min=1.0 / step).to(mean).expand_as(mean).clone()
        if not isinstance(step, Tensor) and step < 2:  # one gradient shows no noise
            return Belief(mean, gain=gain)
        drift = variance * torch.where(gain < 1, gain.square() / (1 - gain), 0.0)
        return Belief(mean, gain * variance, variance, drift, gain / (2 - gain) * variance, gain)

    def rule_for(self, group: Mapping[str, Any]) -> Rule:
        """Returns the rule, with or without a look ahead."""
        return adaptive_vsgd_nesterov if group["nesterov"] else adaptive_vsgd
