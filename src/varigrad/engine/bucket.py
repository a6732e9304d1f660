"""One bucket of parameters through one step: from what is stored to what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .rounding import LOW_PRECISION
from .rule import Rule
from .storage import COMPENSATION, EXACT, Rounding, is_sharded, load, local, place, real, store, summed

__all__ = ["Item", "note", "run"]


class Item(NamedTuple):
    """A parameter that is stepped.

    Attributes:
        param: The parameter, which has a gradient.
        state: Its state.
        inputs: The rule's element-wise arguments beside the gradient.
    """

    param: Tensor
    state: dict[str, Tensor]
    inputs: dict[str, Tensor]


def run(
    rule: Rule,
    way: ModuleType,
    items: list[Item],
    scalars: Mapping[str, float | list[Any]],
    group: Mapping[str, Any],
    count: float | None,
) -> None:
    """Runs a rule on parameters that share device, dtypes and sharding, and writes the results where they belong.

    Args:
        rule: The rule.
        way: The module that runs it.
        items: The parameters.
        scalars: The rule's keyword arguments: one number for the bucket, or one for each parameter, as a number or as a
            0-dim tensor.
        group: The hyperparameters and flags.
        count: The number of this step; None where it is on the device.
    """
    params, states = [item.param for item in items], [item.state for item in items]
    stored = _stored(rule, items)
    written = ("param", *rule.state)
    rounding = _rounding(items, stored, written, group["rounding"], count)
    # A compiled way reads and writes most of what is stored as it is.
    if hasattr(way, "takes") and way.takes(stored, written, rounding):
        sums = way.run(rule, stored, scalars, group["maximize"], rounding)
    else:
        tensors = load(stored)
        if group["differentiable"]:
            # Autograd keeps what the rule was given, which the new values are then written over.
            tensors["param"] = [tensor.clone() for tensor in tensors["param"]]
        sums = way.run(rule, tensors, scalars, group["maximize"])
        if group["differentiable"]:
            _attach(rule, states, stored["param"], tensors, sums)
            return
        store(stored, tensors, written, rounding)
    for name, column in summed(sums, params).items():
        note([state[name] for state in states], column)


def note(targets: list[Tensor], values: list[Tensor] | Tensor) -> None:
    """Writes a number into each of some 0-dim tensors.

    Args:
        targets: Where to.
        values: The numbers, as tensors or as the entries of one. A thousand tensors made of it at every step would
            have Python search the whole program for garbage, which takes longer than the step.
    """
    if isinstance(values, Tensor) and values.device.type == "cpu" and not torch.compiler.is_compiling():
        for target, value in zip(targets, values.tolist(), strict=True):
            target.fill_(value)
    else:
        torch._foreach_copy_(targets, list(values))


def _stored(rule: Rule, items: list[Item]) -> dict[str, list[Tensor]]:
    """Returns the tensors behind each of the rule's arguments, as real ones of this process."""
    stored: dict[str, list[Any]] = {
        "param": [item.param for item in items],
        "grad": [item.param.grad for item in items],
        **{name: [item.state[name] for item in items] for name in rule.state},
        **{name: [item.inputs[name] for item in items] for name in rule.taken},
    }
    if COMPENSATION in items[0].state:
        stored[COMPENSATION] = [item.state[COMPENSATION] for item in items]
    params = stored["param"]
    if is_sharded(params[0]):
        stored = {name: list(map(local, column, params)) for name, column in stored.items()}
    if params[0].is_complex():
        stored = {name: list(map(real, column)) for name, column in stored.items()}
    return stored


def _rounding(
    items: list[Item],
    stored: Mapping[str, list[Tensor]],
    written: tuple[str, ...],
    param: str,
    count: float | None,
) -> Rounding:
    """Returns how the tensors of low precision are written, where there are any; `param` is said for the parameter."""
    narrow = {name: written.index(name) for name in written if stored[name][0].dtype in LOW_PRECISION}
    if not narrow and stored["grad"][0].dtype not in LOW_PRECISION:
        return EXACT
    if "param" in narrow and param != "stochastic":
        del narrow["param"]
    steps: list[Any] = [item.state["step"].long() if count is None else int(count) for item in items]
    return Rounding(narrow, steps, [place(item.param) if narrow else 0 for item in items])


def _attach(
    rule: Rule,
    states: list[dict[str, Tensor]],
    params: list[Tensor],
    tensors: Mapping[str, list[Tensor]],
    sums: Mapping[str, list[Tensor]],
) -> None:
    """Stores results so that autograd can go back through them: the parameter in place, all else as new tensors."""
    for index, (state, param) in enumerate(zip(states, params, strict=True)):
        param.copy_(tensors["param"][index])
        for name in rule.state:
            new = tensors[name][index]
            state[name] = torch.view_as_complex(new) if state[name].is_complex() else new
        for name in rule.statistics:
            state[name] = sums[name][index].to(state[name].dtype)
