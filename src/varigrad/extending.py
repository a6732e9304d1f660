"""What a rule of your own needs: the surface for extending varigrad, gathered in one place.

A rule is a pure function, element by element, that reads like its paper; `rule` turns it into something that can be run
on tensors, on lists of tensors, under `torch.compile` and as a kernel. `RuleOptimizer` is everything around it. `check`
tests the result. `varigrad`'s own optimizers are made of the same pieces.

Example:
    >>> import torch
    >>> from varigrad.extending import Interval, RuleOptimizer, rule
    >>> @rule(state=("mean",))
    ... def momentum(param, grad, mean, *, lr, beta):
    ...     mean = beta * mean + (1 - beta) * grad
    ...     return param - lr * mean, mean
    >>> class Momentum(RuleOptimizer):
    ...     rule = momentum
    ...     accepts = {"beta": Interval(0.0, 1.0, open_high=True)}
    ...
    ...     def __init__(self, params, lr=0.1, beta=0.9, weight_decay=0.0, **flags):
    ...         super().__init__(params, locals())
    ...
    ...     def scalars(self, step, group, memory):
    ...         return {"lr": group["lr"], "beta": group["beta"]}
    >>> weight = torch.ones(2, requires_grad=True)
    >>> optimizer = Momentum([weight], lr=1.0)
    >>> weight.sum().backward()
    >>> optimizer.step()
    >>> weight
    tensor([0.9000, 0.9000], requires_grad=True)
"""

from .checks import check
from .engine.hyperparameters import Accepts, Interval, OneOf, OrNone, Pair, Switch
from .engine.optimizer import RuleOptimizer
from .engine.rule import Rule, hypotenuse, maximum, minimum, rule, sign, sqrt, where

__all__ = [
    "rule",
    "Rule",
    "RuleOptimizer",
    "sqrt",
    "sign",
    "maximum",
    "minimum",
    "where",
    "hypotenuse",
    "Accepts",
    "Interval",
    "Pair",
    "OneOf",
    "OrNone",
    "Switch",
    "check",
]
