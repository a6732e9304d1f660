"""Small rules and optimizers that the engine is tested with; none of them is meant to train anything."""

from __future__ import annotations

import operator
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from varigrad.engine import foreach, fused, loop
from varigrad.engine.hyperparameters import Accepts, Interval
from varigrad.engine.optimizer import RuleOptimizer
from varigrad.engine.rule import Rule, copysign, maximum, minimum, rule, sign, sqrt, where

SCALARS = {"lr": 0.1, "beta": 0.9}


@rule(state=("mean",))
def momentum(param, grad, mean, *, lr, beta):
    mean = beta * mean + (1.0 - beta) * grad
    return param - lr * mean, mean


@rule(state=("mean", "square"))
def normalized(param, grad, mean, square, *, lr, beta):
    mean = beta * mean + (1.0 - beta) * grad
    square = beta * square + (1.0 - beta) * (grad * grad)
    return param - lr * (mean / (sqrt(square) + 1e-8)), mean, square


@rule(state=("previous",))
def remembering(param, grad, previous, *, lr, beta):
    return param - lr * grad - lr * beta * previous, grad


@rule(state=("left", "right"))
def swapping(param, grad, left, right, *, lr, beta):
    return param - lr * grad * left, right, left


@rule(state=("left", "right"))
def rotating(param, grad, left, right, *, lr, beta):
    return left, right, param - lr * grad * beta


@rule(state=("left", "right"))
def returned_twice(param, grad, left, right, *, lr, beta):
    total = beta * left + right * grad
    return param - lr * total, total, total


@rule(state=("mean",))
def still(param, grad, mean, *, lr, beta):
    return param, beta * mean + grad * lr


@rule(state=("left", "right"))
def entangled(param, grad, left, right, *, lr, beta):
    """Neither state can be computed in its own storage without a copy: each needs the other's old value."""
    return param - lr * left, beta * right + grad, beta * left - grad


@rule(state=("left", "right"))
def numbers_first(param, grad, left, right, *, lr, beta):
    left = 1.0 - left
    right = 1.0 / (2.0 + abs(right))
    return 2.0 * param + (1.0 / beta) / (1.0 + grad * grad), left - right * right, lr + right


@rule(state=("left", "right"))
def choosing(param, grad, left, right, *, lr, beta):
    left = where(grad * left > 0.0, left * 1.2, left * 0.5)
    right = where(right < grad, grad, right)
    step = lr * sign(grad) * minimum(maximum(left, 0.1), 5.0)
    return param - where(abs(left) < 1.0, step, 0.0), left, maximum(right, minimum(left, grad))


@rule(state=("left", "right"))
def signing(param, grad, left, right, *, lr, beta):
    return param - lr * copysign(grad, left), copysign(left, -right), beta * copysign(0.0 * right, grad)


@rule(state=("left", "right"))
def fused_products(param, grad, left, right, *, lr, beta):
    scaled = lr * (left * grad)
    quotient = left / (abs(right) + 1.0)
    left = left + grad * right - beta * quotient
    right = grad * grad - right * beta
    return (param - scaled) + (param / (abs(grad) + 2.0)) * lr, left, right + grad / (abs(left) + 1.0)


@rule(state=("previous",), statistics=("agreement", "positive"))
def counting(param, grad, previous, *, lr, beta):
    return param - lr * grad, grad, sign(grad) * sign(previous), where(grad > beta, 1.0, 0.0 * grad)


@rule(state=("mean",), statistics=("length",))
def summing(param, grad, mean, *, lr, beta):
    mean = beta * mean + (1.0 - beta) * grad
    return param - lr * mean, mean, mean * mean


@rule(state=("mean",), optional=("weight",))
def weighted(param, grad, mean, *, lr, beta, weight=None):
    if weight is not None:
        grad = grad * weight
    mean = beta * mean + (1.0 - beta) * grad
    return param - lr * mean, mean


@rule(state=("mean", "previous"), statistics=("agreement",), memory=("logit",))
def learned(param, grad, mean, previous, *, lr, gain):
    innovation = grad - mean
    mean = mean + gain * innovation
    return param - lr * mean, mean, innovation, sign(innovation) * sign(previous)


WITHOUT_ROOT = (
    *(momentum, remembering, swapping, rotating, returned_twice, still, entangled, numbers_first, choosing),
    *(signing, fused_products, counting, weighted, weighted.taking("weight")),
)
RULES = (*WITHOUT_ROOT, normalized)
by_name = operator.attrgetter("name")


def draw(the_rule: Rule, shapes=((7,), (3, 5), (), (0,)), dtype=torch.float64, seed=0) -> dict[str, list[Tensor]]:
    """Random tensors for every argument of a rule."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: [torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes] for name in the_rule.elements
    }


def copy(tensors: Mapping[str, list[Tensor]]) -> dict[str, list[Tensor]]:
    return {name: [tensor.clone() for tensor in column] for name, column in tensors.items()}


WAYS = {"loop": loop, "foreach": foreach, "fused": fused}


def run(way: str, the_rule: Rule, tensors, maximize=False, **scalars) -> dict[str, list[Tensor]]:
    """What one run of a rule makes of copies of `tensors`: new parameters and state, statistics, the gradients."""
    ours = copy(tensors)
    scalars = {name: value for name, value in (SCALARS | scalars).items() if name in (*the_rule.keywords, "decay")}
    sums = WAYS[way].run(the_rule, ours, scalars, maximize)
    return ours | sums


def differences(one, other, relative=0.0) -> list[str]:
    """The names of what differs by more than `relative`, measured against the size of the numbers."""
    return [
        name
        for name in one
        for x, y in zip(one[name], other[name], strict=True)
        if not torch.allclose(x.double(), y.double(), rtol=relative, atol=relative, equal_nan=True)
    ]


# ---------------------------------------------------------------- random rules


@dataclass(frozen=True)
class Exact:
    """What is known about a value of a random rule, so that all its arithmetic can be kept free of rounding."""

    most: float  # the largest magnitude
    grain: float  # every value is a multiple of it
    least: float | None = None  # the smallest magnitude of what is a power of two, up to its sign; None for others
    element: bool = True


def random_rule(choices: random.Random, name: str, operations: int) -> Rule:
    """A rule made of random operations, that computes without rounding on what `exact_inputs` draws.

    So two ways of running it must agree in every bit, whatever they reorder, and in spite of comparisons.
    """
    facts = [Exact(4, 1), Exact(4, 1), Exact(4, 1), Exact(2, 0.5, 0.5), Exact(0.5, 0.5, 0.5, False)]
    facts += [Exact(2, 2, 2, False), Exact(1, 1, 1, False), Exact(0.25, 0.25, 0.25, False)]
    program: list[tuple[str, tuple[int, ...]]] = []
    while len(program) < operations:
        kind = choices.choice(KINDS)
        # Recent values are preferred, so that the expressions become deep.
        operands = [choices.randrange(max(0, len(facts) - choices.choice((3, 8, 99))), len(facts)) for _ in range(4)]
        if kind == "scale":  # by a number, on either side
            kind, operands[:2] = "mul", choices.sample([operands[0], choices.randrange(4, 8)], 2)
        fact = _fact(kind, [facts[operand] for operand in operands])
        if fact is not None:
            program.append((kind, tuple(operands)))
            facts.append(fact)
    results = [i for i, fact in enumerate(facts) if fact.element]
    chosen = [results[-1], choices.choice(results[-4:]), choices.choice(results)]
    choices.shuffle(chosen)

    def function(param, grad, left, right, *, lr, beta):
        values = [param, grad, left, right, lr, beta, 1.0, 0.25]
        for kind, operands in program:
            values.append(_APPLY[kind](*[values[operand] for operand in operands]))
        return tuple(values[index] for index in chosen)

    function.__name__ = name
    return rule(state=("left", "right"))(function)


KINDS = (
    *("add", "add", "sub", "sub", "mul", "mul", "scale", "scale", "scale"),
    *("div", "neg", "abs", "sign", "max", "min", "where", "less"),
)

_APPLY = {
    "add": lambda x, y, *_: x + y,
    "sub": lambda x, y, *_: x - y,
    "mul": lambda x, y, *_: x * y,
    "div": lambda x, y, *_: x / y,
    "neg": lambda x, *_: -x,
    "abs": lambda x, *_: abs(x),
    "sign": lambda x, *_: sign(x),
    "max": lambda x, y, *_: maximum(x, y),
    "min": lambda x, y, *_: minimum(x, y),
    "where": lambda x, y, z, w: where(x > y, z, w),
    "less": lambda x, y, z, w: where(x < y, z, w),
}


def _fact(kind: str, operands: list[Exact]) -> Exact | None:
    """What is known about a result; None where the operation is not allowed or would need too many bits."""
    x, y, z, w = operands
    both = None if x.least is None or y.least is None else min(x.least, y.least)
    # At least one operand must have elements, and it comes first where a bound follows.
    if not (x.element or (y.element and kind in ("add", "sub", "mul", "div"))):
        return None
    if kind in ("add", "sub"):
        fact = Exact(x.most + y.most, min(x.grain, y.grain))
    elif kind == "mul":
        fact = Exact(x.most * y.most, x.grain * y.grain, None if both is None else x.least * y.least)
    elif kind == "div":
        if y.least is None:
            return None
        fact = Exact(x.most / y.least, x.grain / y.most, None if both is None else x.least / y.most)
    elif kind in ("neg", "abs"):
        fact = x
    elif kind == "sign":
        fact = Exact(1, 1, None if x.least is None else 1.0)
    elif kind in ("max", "min"):
        fact = Exact(max(x.most, y.most), min(x.grain, y.grain), both)
    else:
        if not z.element:
            return None
        both = None if z.least is None or w.least is None else min(z.least, w.least)
        fact = Exact(max(z.most, w.most), min(z.grain, w.grain), both)
    return fact if fact.most / fact.grain <= 2**18 else None


EXACT_SCALARS = {"lr": 0.5, "beta": 2.0}


def exact_inputs(seed: int, dtype=torch.float64, shapes=((6,), (2, 4), ())) -> dict[str, list[Tensor]]:
    """Small integers, and for `right` powers of two, so that one may divide by them."""
    generator = torch.Generator().manual_seed(seed)

    def integers(low, high):
        return [torch.randint(low, high + 1, shape, generator=generator).to(dtype) for shape in shapes]

    tensors = {name: integers(-4, 4) for name in ("param", "grad", "left")}
    signs = [1.0 - 2.0 * tensor for tensor in integers(0, 1)]
    return tensors | {"right": [s * 2.0**power for s, power in zip(signs, integers(-1, 1), strict=True)]}


RANDOM_RULES = tuple(random_rule(random.Random(seed), f"random{seed}", 4 + seed % 12) for seed in range(40))


# ---------------------------------------------------------------- optimizers

FLAGS = {"maximize": False, "foreach": None, "fused": None, "capturable": False, "differentiable": False}


class Momentum(RuleOptimizer):
    """A running mean of the gradient, with its bias corrected in the scalars."""

    rule = momentum
    accepts: ClassVar[dict[str, Accepts]] = {"beta": Interval(0.0, 1.0, open_high=True)}

    def __init__(self, params, lr: float | Tensor = 0.1, beta=0.9, weight_decay=0.0, **flags: Any) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": weight_decay} | FLAGS | flags)

    def scalars(self, step, group, memory):
        return {"lr": group["lr"] / (1.0 - group["beta"] ** step), "beta": group["beta"]}


class Normalized(Momentum):
    """Divides by the root of a running mean square that starts at 1."""

    rule = normalized

    def start(self, group):
        return {"square": 1.0}


class Remembering(Momentum):
    """Keeps the gradient itself as its state."""

    rule = remembering


class Swapping(Momentum):
    """Exchanges its two states at every step."""

    rule = swapping

    def start(self, group):
        return {"left": 1.0, "right": 2.0}


class Learned(RuleOptimizer):
    """Learns for each tensor the gain of its running mean from the signs of successive innovations."""

    rule = learned
    accepts: ClassVar[dict[str, Accepts]] = {"rate": Interval()}

    def __init__(self, params, lr: float | Tensor = 0.05, rate=0.3, weight_decay=0.0, **flags: Any) -> None:
        super().__init__(params, {"lr": lr, "rate": rate, "weight_decay": weight_decay} | FLAGS | flags)

    def scalars(self, step, group, memory):
        # Every tensor of these tests has SIZE elements: a rule's statistics are sums, not means.
        logit = memory["logit"] + group["rate"] * memory["agreement"] / SIZE
        return {"lr": group["lr"], "gain": torch.sigmoid(logit), "logit": logit}

    def start(self, group):
        return {"logit": -0.5}


SIZE = 12
