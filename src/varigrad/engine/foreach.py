"""The foreach way: the rule's trace as a short list of `torch._foreach_*` calls on whole buckets of tensors.

Three things make the list short and its calls cheap, none of which the rule has to know of: a product or quotient that
is only added to something becomes part of the addition (`addcmul`, `addcdiv`, `alpha`); an operation writes over an
argument that nobody needs any more; and the new value of a state tensor is computed in that tensor where its old value
is no longer needed by then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .operations import OPERATIONS, total
from .plan import COMMUTATIVE, FUSED, Plan
from .rule import Rule

__all__ = ["run"]

# torch's list kernels take lists and return tuples.
Value = float | Sequence[Tensor]


def run(
    rule: Rule,
    tensors: dict[str, list[Tensor]],
    scalars: Mapping[str, Value],
    maximize: bool,
) -> dict[str, list[Tensor]]:
    """Runs `rule` on all tensors of a bucket at once; the arguments and the result are those of `loop.run`.

    Unlike the loop it writes the new values into the storage of the tensors they are for.
    """
    scalars = {name: _tensors(value) if isinstance(value, list) else value for name, value in scalars.items()}
    per_tensor = frozenset(name for name, value in scalars.items() if isinstance(value, list))
    plan = _plan(rule, maximize, "decay" in scalars, per_tensor)
    results = _execute(plan, {**tensors, **scalars})
    moved = {name: results[name] for name in plan.owned if results[name] is not tensors[name]}
    for name, values in moved.items():
        if plan.trace.results[name].operation == "input":
            # The old value of another tensor must not be written over before it is read.
            moved[name] = [value.clone() for value in values]
    for name, values in moved.items():
        torch._foreach_copy_(tensors[name], list(values))
    return {name: [total(value) for value in results[name]] for name in rule.statistics}


def _tensors(values: list[Any]) -> list[Tensor]:
    return [value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64) for value in values]


@functools.cache
def _plan(rule: Rule, maximize: bool, decays: bool, per_tensor: frozenset[str]) -> Plan:
    return Plan(rule.trace(maximize, decays, per_tensor), ("param", *rule.state))


def _execute(plan: Plan, inputs: Mapping[str, Value]) -> dict[str, Sequence[Tensor]]:
    """Computes the results of a plan."""
    values: list[Any] = [None] * plan.slots
    for name, slot in plan.inputs.items():
        values[slot] = inputs[name]
    for slot, constant in plan.constants.items():
        values[slot] = constant
    for operation, operands, slot in plan.numbers:
        values[slot] = OPERATIONS[operation].number(*[values[operand] for operand in operands])
    for call in plan.calls:
        arguments = [values[argument] for argument in call.arguments]
        keywords = {call.keyword: values[call.scale]} if call.keyword else {}
        if call.overwrites is None:
            result = _KERNELS[call.kernel](*arguments, **keywords)
        else:
            result = arguments.pop(call.overwrites)
            _KERNELS[call.kernel + "_"](result, *arguments, **keywords)
        values[call.result] = result
        for slot in call.dying:
            values[slot] = None
    return {name: values[slot] for name, slot in plan.results.items()}


def _walk(operation: str) -> Callable[..., list[Tensor]]:
    """The kernel for what torch has no list kernel for: the list is walked."""
    function = OPERATIONS[operation].tensor

    def kernel(*arguments: Value) -> list[Tensor]:
        count = next(len(a) for a in arguments if isinstance(a, Sequence))
        columns = [a if isinstance(a, Sequence) else [a] * count for a in arguments]
        return [function(*row) for row in zip(*columns, strict=True)]

    return kernel


def _kernel(operation: str, foreach: str) -> Callable[..., Sequence[Tensor]]:
    """The list kernel of an operation, also where its first operand is a number."""
    function: Callable[..., Sequence[Tensor]] = getattr(torch, f"_foreach_{foreach}")
    walk = _walk(operation)

    def kernel(x: Value, *rest: Value, **keywords: float) -> Sequence[Tensor]:
        if isinstance(x, Sequence):
            return function(x, *rest, **keywords)
        return function(*rest, x) if operation in COMMUTATIVE else walk(x, *rest)

    return kernel


_KERNELS: dict[str, Callable[..., Any]] = {}
for _name in FUSED:
    _KERNELS[_name], _KERNELS[_name + "_"] = getattr(torch, f"_foreach_{_name}"), getattr(torch, f"_foreach_{_name}_")
for _name, _row in OPERATIONS.items():
    if _row.foreach is None:
        _KERNELS[_name] = _walk(_name)
    else:
        _KERNELS[_name] = _kernel(_name, _row.foreach)
        _KERNELS[_name + "_"] = getattr(torch, f"_foreach_{_row.foreach}_")
