"""Beliefs about gradients, read from any optimizer: ours by what each says of itself, torch's from its moments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .engine.belief import Belief, count
from .engine.groups import group_of
from .engine.operations import Scalar
from .engine.optimizer import RuleOptimizer
from .engine.storage import real, width
from .svag import averaged

__all__ = ["Belief", "belief_of"]


@torch.no_grad()
def belief_of(optimizer: torch.optim.Optimizer, param: Tensor) -> Belief:
    r"""Returns what an optimizer believes about the gradient of a parameter, torch's Adam and its kin included.

    Of an optimizer of this package it is `optimizer.belief(param)`. torch's Adam, AdamW, NAdam and RAdam keep two
    moving averages, m with decay β₁ and v with decay β₂; debiased, and with k the number of the step, they amount to

        s = (v - m²) / (1 - ρ(β₁, k)),   ρ(β, k) = (1-β)(1+β^k) / ((1+β)(1-β^k))

    the variance of one observed gradient; that of m is ρ s. For β₁ = β₂ that is Eq. 22 of "Dissecting Adam". It holds
    for any β₂ as long as the true gradient has not moved, because E[v] is its square plus s and E[m²] its square plus
    ρ(β₁, k) s; where rounding or a moving gradient make v less than m², s is 0. RMSprop has the same with its one
    decay, if it is `centered`; otherwise it keeps no mean, and every field is None.

    A `weight_decay` that is added to the gradient, as Adam's is, makes it a belief about the sum; AdamW's is not.

    Args:
        optimizer: An optimizer of this package or one of those above.
        param: A parameter of it that has been stepped.

    Returns:
        The belief; see `Belief`.

    Raises:
        TypeError: If the optimizer is another, or `param` is no tensor.
        ValueError: If `param` is not a parameter of the optimizer.
        RuntimeError: If it has not been stepped yet.

    Reference:
        Balles and Hennig 2018: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Eq. 20 to 22.

    Example:
        >>> import torch, varigrad
        >>> weight = torch.zeros(2, requires_grad=True)
        >>> optimizer = torch.optim.AdamW([weight], lr=1e-3, betas=(0.5, 0.5))
        >>> for gradient in ([1.0, 3.0], [2.0, -3.0]):
        ...     weight.grad = torch.tensor(gradient)
        ...     optimizer.step()
        >>> varigrad.belief_of(optimizer, weight).observation_variance
        tensor([ 0.5000, 18.0000])
    """
    if isinstance(optimizer, RuleOptimizer):
        return optimizer.belief(param)
    # LBFGS and other relatives derive from Optimizer alone; subclasses of these keep the same state.
    kind = next((kind for kind in _MOMENTS if isinstance(optimizer, kind)), None)
    if kind is None:
        known = ", ".join(kind.__name__ for kind in _MOMENTS)
        raise TypeError(
            f"belief_of cannot read {type(optimizer).__name__}: it reads the optimizers of varigrad and, of torch's, "
            f"{known}"
        )
    group = group_of(optimizer, param)
    state = optimizer.state[param]
    step = count(torch.as_tensor(state["step"]))
    kept = {name: real(state[name]).to(width(param.dtype)) for name in _KEPT if name in state}
    belief = _MOMENTS[kind](group, step, kept)
    if group.get("maximize") and belief.mean is not None:
        belief = belief.mapped(lambda tensor: -tensor if tensor is belief.mean else tensor)
    return belief.mapped(torch.view_as_complex) if param.is_complex() else belief


def _adam(group: Mapping[str, Any], step: Scalar, state: Mapping[str, Tensor]) -> Belief:
    beta1, beta2 = (float(beta) for beta in group["betas"])
    return _moments(state["exp_avg"] / (1.0 - beta1**step), state["exp_avg_sq"] / (1.0 - beta2**step), beta1, step)


def _rmsprop(group: Mapping[str, Any], step: Scalar, state: Mapping[str, Tensor]) -> Belief:
    if not group["centered"]:
        return Belief()
    seen = 1.0 - group["alpha"] ** step
    return _moments(state["grad_avg"] / seen, state["square_avg"] / seen, group["alpha"], step)


def _moments(mean: Tensor, square: Tensor, beta: float, step: Scalar) -> Belief:
    return averaged(mean, (square - mean.square()).clamp(min=0.0), beta, step)


_KEPT = ("exp_avg", "exp_avg_sq", "grad_avg", "square_avg")

_MOMENTS: dict[type[torch.optim.Optimizer], Callable[[Mapping[str, Any], Scalar, Mapping[str, Tensor]], Belief]] = {
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.NAdam: _adam,
    torch.optim.RAdam: _adam,
    torch.optim.RMSprop: _rmsprop,
}
