"""MSGD, SSD and MSSD: magnitude or sign of the gradient, without variance adaptation.

With SVAG and Adam they are the corners of "Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients"
(Balles and Hennig 2018): take the sign or the magnitude, adapt to the variance or do not.
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
from .engine.hyperparameters import Accepts, Interval
from .engine.operations import Scalar
from .engine.optimizer import RuleOptimizer
from .engine.rule import rule, sign

__all__ = ["MSGD", "MSSD", "SSD"]


@rule(state=("mean",))
def msgd(param, grad, mean, *, lr, weight):
    mean = mean + weight * (grad - mean)  # Eq. 4, debiased
    return param - lr * mean, mean


@rule(state=())
def ssd(param, grad, *, lr):
    return (param - lr * sign(grad),)


@rule(state=("mean",))
def mssd(param, grad, mean, *, lr, weight):
    mean = mean + weight * (grad - mean)  # Eq. 4, debiased
    return param - lr * sign(mean), mean


def debiasing_weight(beta: float, step: Scalar) -> Scalar:
    """Returns (1-β) / (1-β^k), the weight of the newest of k gradients in their debiased moving average."""
    return (1.0 - beta) / (1.0 - beta**step)


class MSGD(RuleOptimizer):
    r"""Stochastic gradient descent along the debiased moving average of the gradient.

    With k counting the parameter's own steps from 1 and from m = 0:

        m ← m + (g - m) (1-β) / (1-β^k)                         Eq. 4, debiased
        θ ← θ (1 - lr weight_decay) - lr m

    It is SGD with momentum on another scale: `torch.optim.SGD(lr=lr * (1 - beta), momentum=beta)` takes the same steps
    once β^k has died away. The first step is exactly θ - lr g.

    Args:
        params: Parameters, named parameters, or dictionaries that define parameter groups; every argument below may
            be set per group.
        lr: Learning rate; a number or 0-dim tensor in [0, ∞).
        beta: Decay of the moving average, in [0, 1); 0 is plain SGD.
        weight_decay: Decoupled weight decay, as in AdamW; in [0, ∞).
        rounding, state_dtype, maximize, foreach, fused, capturable, differentiable: As in `VSGD`.

    Raises:
        TypeError: If an argument has the wrong type, or a group an unknown key.
        ValueError: If an argument is out of its range, or there are no parameters.
        RuntimeError: If a gradient is sparse, or flags exclude each other.

    Reference:
        Balles and Hennig 2018: Dissecting Adam, Algorithm 2 (left).

    Example:
        >>> import torch, varigrad
        >>> weight = torch.ones(2, requires_grad=True)
        >>> optimizer = varigrad.MSGD([weight], lr=0.25)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight
        tensor([0.5000, 0.5000], requires_grad=True)
    """

    rule = msgd
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
        """Returns the learning rate and the weight of the newest gradient."""
        return {"lr": group["lr"], "weight": debiasing_weight(group["beta"], step)}

    def believe(self, group: Mapping[str, Any], step: Scalar, state: Mapping[str, Tensor], param: Tensor) -> Belief:
        """Returns the moving average; it knows no variance."""
        return Belief(state["mean"])


class SSD(RuleOptimizer):
    r"""Stochastic sign descent: every weight moves by the learning rate against the sign of its gradient.

        θ ← θ (1 - lr weight_decay) - lr sign(g),   sign(0) = 0

    The sign of zero is zero, so that a weight without a gradient stays where it is.

    Args:
        params: Parameters, named parameters, or dictionaries that define parameter groups; every argument below may
            be set per group.
        lr: Learning rate, the change of every weight in one step; a number or 0-dim tensor in [0, ∞).
        weight_decay: Decoupled weight decay, as in AdamW; in [0, ∞).
        rounding, state_dtype, maximize, foreach, fused, capturable, differentiable: As in `VSGD`.

    Raises:
        TypeError: If an argument has the wrong type, or a group an unknown key.
        ValueError: If an argument is out of its range, or there are no parameters.
        RuntimeError: If a gradient is sparse, or flags exclude each other.

    Reference:
        Balles and Hennig 2018: Dissecting Adam, Sec. 2.

    Example:
        >>> import torch, varigrad
        >>> weight = torch.tensor([3.0, 0.0, -1e-9], requires_grad=True)
        >>> optimizer = varigrad.SSD([weight], lr=0.5)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight
        tensor([2.5000, 0.0000, 0.5000], requires_grad=True)
    """

    rule = ssd
    accepts: ClassVar[dict[str, Accepts]] = {}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
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
        """Returns the learning rate."""
        return {"lr": group["lr"]}


class MSSD(RuleOptimizer):
    r"""Stochastic sign descent along the moving average of the gradient.

    With k counting the parameter's own steps from 1 and from m = 0:

        m ← m + (g - m) (1-β) / (1-β^k)                         Eq. 4, debiased
        θ ← θ (1 - lr weight_decay) - lr sign(m),   sign(0) = 0

    Debiasing does not change a sign, but keeps the average readable. It is Adam without its variance adaptation.

    Args:
        params: Parameters, named parameters, or dictionaries that define parameter groups; every argument below may
            be set per group.
        lr: Learning rate, the change of every weight in one step; a number or 0-dim tensor in [0, ∞).
        beta: Decay of the moving average, in [0, 1); 0 is `SSD`.
        weight_decay: Decoupled weight decay, as in AdamW; in [0, ∞).
        rounding, state_dtype, maximize, foreach, fused, capturable, differentiable: As in `VSGD`.

    Raises:
        TypeError: If an argument has the wrong type, or a group an unknown key.
        ValueError: If an argument is out of its range, or there are no parameters.
        RuntimeError: If a gradient is sparse, or flags exclude each other.

    Reference:
        Balles and Hennig 2018: Dissecting Adam, Algorithm 2 (right).

    Example:
        >>> import torch, varigrad
        >>> weight = torch.tensor([3.0, -1e-9], requires_grad=True)
        >>> optimizer = varigrad.MSSD([weight], lr=0.5)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> weight
        tensor([2.5000, 0.5000], requires_grad=True)
    """

    rule = mssd
    accepts: ClassVar[dict[str, Accepts]] = {"beta": Interval(0.0, 1.0, open_high=True)}

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
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
        """Returns the learning rate and the weight of the newest gradient."""
        return {"lr": group["lr"], "weight": debiasing_weight(group["beta"], step)}

    def believe(self, group: Mapping[str, Any], step: Scalar, state: Mapping[str, Tensor], param: Tensor) -> Belief:
        """Returns the moving average; it knows no variance."""
        return Belief(state["mean"])
