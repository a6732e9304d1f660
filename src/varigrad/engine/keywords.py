"""The keyword arguments of a rule for one bucket: from hyperparameters, counts and memory to numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .groups import cycled
from .operations import Scalar
from .per_tensor import Numbers
from .rule import Rule

__all__ = ["keyword_arguments"]

Scalars = Callable[[Scalar, Mapping[str, Any], Mapping[str, Tensor]], dict[str, Any]]
"""An optimizer's `scalars`."""

State = dict[str, Tensor]


def keyword_arguments(
    scalars: Scalars,
    rule: Rule,
    group: Mapping[str, Any],
    states: list[State],
    numbers: Numbers | None,
    count: float | None,
) -> dict[str, float | list[Any]]:
    """Returns the rule's keyword arguments: numbers for the whole bucket, or a number for each parameter.

    Args:
        scalars: What the optimizer computes them with.
        rule: The rule.
        group: The hyperparameters.
        states: The states of the bucket's parameters.
        numbers: The statistics and the memory in them; None for a rule without. What is remembered is written there.
        count: The number of the step; None where each parameter has its own, on the device.
    """
    lr = group["lr"]
    if isinstance(lr, Tensor):
        on_host = count is not None and not group["differentiable"]
        lr = lr.item() if on_host else _precise(lr.reshape(()))
    settings = {**group, "lr": lr}
    if (beta := cycled(group)) is not None:
        settings["beta"] = beta
    if numbers is not None:
        return _remembering(scalars, rule, settings, states, numbers, count)
    if count is not None:
        return _with_decay(settings, scalars(count, settings, {}))
    columns: dict[str, list[Any]] = defaultdict(list)
    for state in states:
        values = scalars(_precise(state["step"]), settings, {})
        for name, value in _with_decay(settings, values).items():
            columns[name].append(value)
    return {name: _shared_or_each(values, states) for name, values in columns.items()}


def _remembering(
    scalars: Scalars,
    rule: Rule,
    group: Mapping[str, Any],
    states: list[State],
    numbers: Numbers,
    count: float | None,
) -> dict[str, float | list[Any]]:
    """Returns the keyword arguments of a rule with statistics, computed for all tensors at once."""
    # Compiled code reads numbers, and autograd would not know where they are from.
    memory = numbers.stacked() if group["differentiable"] else numbers.read()
    step: Scalar = _precise(torch.stack([state["step"] for state in states])) if count is None else count
    values = scalars(step, group, memory)
    new = {name: values[name] for name in rule.memory if name in values}
    if group["differentiable"]:
        for name, column in new.items():
            for state, value in zip(states, column.unbind(), strict=True):
                state[name] = value.to(state[name].dtype)
    else:
        numbers.write(new if count is not None else {name: list(column.unbind()) for name, column in new.items()})
    wanted = _with_decay(group, {name: values[name] for name in rule.keywords})
    on_host = count is not None and not group["differentiable"]
    return {name: _each(value, states, on_host) for name, value in wanted.items()}


def _with_decay(group: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    if group["weight_decay"] != 0:
        values["decay"] = 1.0 - group["lr"] * group["weight_decay"]
    return values


def _shared_or_each(values: list[Any], states: list[State]) -> float | list[Tensor]:
    """The one number that all tensors of a bucket have, or a 0-dim tensor for each of them."""
    # What is no tensor does not depend on the step, so it is the same for all. Comparing the numbers would have
    # torch.compile take a changing learning rate for a constant, and make a new graph for each of its values.
    if not any(isinstance(value, Tensor) for value in values):
        return float(values[0])
    devices = [state["step"].device for state in states]
    return [
        value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64, device=device)
        for value, device in zip(values, devices, strict=True)
    ]


def _each(value: Any, states: list[State], on_host: bool) -> float | list[Any]:
    """The number that all tensors of a bucket have, or one for each: a 0-dim tensor unless the host may know it."""
    if not isinstance(value, Tensor):
        return float(value)
    if not value.dim():
        return [value] * len(states)
    return value.tolist() if on_host and value.device.type == "cpu" else list(value.unbind())


def _precise(number: Tensor) -> Tensor:
    """A 0-dim tensor in the dtype that the host's numbers have, on the devices that have it."""
    return number if number.device.type == "mps" else number.double()
