"""What an optimizer believes about the gradient of a parameter, element by element."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .groups import cycled, group_of
from .operations import Scalar
from .storage import real, width

if TYPE_CHECKING:
    from .optimizer import RuleOptimizer

__all__ = ["Belief", "believed"]


@dataclass(frozen=True)
class Belief:
    r"""What an optimizer believes about the gradient of one parameter; returned by `optimizer.belief(p)`.

    Every field is a tensor shaped like the parameter, float32 (float64 for float64 parameters), or None where the
    method has no such notion. Of a complex parameter real and imaginary part are two weights, and so the real and the
    imaginary part of a variance are two variances. Nothing shares memory with the state.

    Attributes:
        mean: The estimate of the true gradient of what is minimised or, with `maximize`, climbed.
        variance: How far the true gradient may be from it: the variance of the method's own posterior.
        observation_variance: The variance of a single observed gradient, that is, of `p.grad`, at the batch size in
            use; for VSGD calibrated as `varigrad.theory.calibrated_observation_variance` has it.
        systematic_variance: The variance of what the true gradient changes by in one step.
        mean_noise: The part of the observation variance that is left in `mean`, as if the true gradient stood still:
            Σ mean² exceeds the sum of the squared true gradient by the sum of these. For VSGD it is w/(2-w) of the
            observation variance, and below `variance`, which allows for drift as well.
        gain: How far the mean goes towards a new gradient, where that is learned: 0 keeps the mean, 1 takes the
            gradient for it. `AdaptiveVSGD` has one for each tensor.

    Example:
        >>> import torch, varigrad
        >>> weight = torch.zeros(2, requires_grad=True)
        >>> optimizer = varigrad.MSVAG([weight], lr=0.0, beta=0.5)
        >>> for gradient in ([1.0, 3.0], [2.0, -3.0]):
        ...     weight.grad = torch.tensor(gradient)
        ...     optimizer.step()
        >>> belief = optimizer.belief(weight)
        >>> belief.mean, belief.observation_variance
        (tensor([ 1.6667, -1.0000]), tensor([ 0.5000, 18.0000]))
        >>> belief.snr
        tensor([2.3570, 0.2357])
    """

    mean: Tensor | None = None
    variance: Tensor | None = None
    observation_variance: Tensor | None = None
    systematic_variance: Tensor | None = None
    mean_noise: Tensor | None = None
    gain: Tensor | None = None

    @property
    def snr(self) -> Tensor | None:
        """The signal-to-noise ratio |mean| / √observation_variance of one observed gradient; 0 where both are 0."""
        if self.mean is None or self.observation_variance is None:
            return None
        if self.mean.is_complex():
            parts = (torch.view_as_real(self.mean), torch.view_as_real(self.observation_variance))
            return torch.view_as_complex(_ratio(*parts))
        return _ratio(self.mean, self.observation_variance)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Belief:
        """Returns the belief with `change` applied to every tensor."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Belief(**{name: None if value is None else change(value) for name, value in values.items()})


def _ratio(mean: Tensor, variance: Tensor) -> Tensor:
    return torch.where(mean == 0, 0.0, mean.abs() / variance.sqrt())


@torch.no_grad()
def believed(optimizer: RuleOptimizer, param: Tensor) -> Belief:
    """Returns what an optimizer's `believe` says of a parameter, as a tensor like the parameter and not like its state.

    Raises:
        TypeError: If `param` is no tensor.
        ValueError: If it is not a parameter of this optimizer.
        RuntimeError: If it has not been stepped yet.
    """
    group = group_of(optimizer, param)
    rule, stored = optimizer.rule_for(group), optimizer.state[param]
    kept = (*rule.state, *rule.statistics, *rule.memory)
    state = {name: real(stored[name]).to(width(param.dtype)) for name in kept}
    beta = cycled(group)
    settings = group if beta is None else {**group, "beta": beta}
    belief = optimizer.believe(settings, count(stored["step"]), state, param)
    # What is returned must not be the state itself.
    own = {id(tensor) for tensor in state.values()}
    belief = belief.mapped(lambda tensor: tensor.clone() if id(tensor) in own else tensor)
    if group["maximize"] and belief.mean is not None:
        belief = replace(belief, mean=-belief.mean)
    return belief.mapped(torch.view_as_complex) if param.is_complex() else belief


def count(step: Tensor) -> Scalar:
    """Returns the number of a step; as a tensor where it is on a device, which the host must not wait for."""
    return step.item() if step.device.type == "cpu" else step if step.device.type == "mps" else step.double()
