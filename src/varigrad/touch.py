"""Touch: what the step of an optimizer with as many arrays cannot be faster than.

Its rules add the gradient to the parameter and to every state tensor. They are compiled, threaded and called as every
other rule, so that what a step takes longer is its arithmetic, and nothing else.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# A rule has no types of its own: it is run on tensors, on numbers and on the symbols that trace it.

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.optim.optimizer import ParamsT

from .engine.hyperparameters import Accepts, OneOf
from .engine.operations import Scalar
from .engine.optimizer import RuleOptimizer
from .engine.rule import Rule, rule

__all__ = ["Touch"]


@rule(state=())
def touch_none(param, grad):
    return (param + grad,)


@rule(state=("first",))
def touch_one(param, grad, first):
    return param + grad, first + grad


@rule(state=("first", "second"))
def touch_two(param, grad, first, second):
    return param + grad, first + grad, second + grad


@rule(state=("first", "second", "third"))
def touch_three(param, grad, first, second, third):
    return param + grad, first + grad, second + grad, third + grad


class Touch(RuleOptimizer):
    """No optimizer, but a yardstick for them: reads and writes as many arrays, with one addition each.

    Args:
        params: Parameters.
        arrays: How many state tensors each of them has, 0 to 3.
        lr: Without a meaning.
        fused: As in `VSGD`.
        foreach: As in `VSGD`.

    Example:
        >>> import torch
        >>> from varigrad.touch import Touch
        >>> weight = torch.ones(2, requires_grad=True)
        >>> weight.sum().backward()
        >>> Touch([weight], arrays=1).step()
        >>> weight
        tensor([2., 2.], requires_grad=True)
    """

    rules: ClassVar[tuple[Rule, ...]] = (touch_none, touch_one, touch_two, touch_three)
    accepts: ClassVar[dict[str, Accepts]] = {"arrays": OneOf(tuple(range(4)))}

    def __init__(
        self,
        params: ParamsT,
        arrays: int,
        lr: float | Tensor = 0.0,
        *,
        fused: bool | None = None,
        foreach: bool | None = None,
    ) -> None:
        super().__init__(params, locals() | {"weight_decay": 0.0})

    def scalars(self, step: Scalar, group: Mapping[str, Any], memory: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns nothing: the rules have no arguments."""
        return {}

    def rule_for(self, group: Mapping[str, Any]) -> Rule:
        """Returns the rule with so many state tensors."""
        chosen: int = group["arrays"]
        return self.rules[chosen]
