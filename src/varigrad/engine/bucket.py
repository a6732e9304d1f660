"""Buckets of parameters that are stepped together: from what is stored to what is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .loss_scale import UNSCALED, LossScale
from .per_tensor import Numbers
from .rounding import LOW_PRECISION
from .rule import SKIPPED, Rule
from .storage import COMPENSATION, EXACT, PLAIN, Rounding, is_sharded, layout, load, local, place, real, store, summed

__all__ = ["Bucket", "buckets", "run"]


class Bucket(NamedTuple):
    """Parameters that are stepped together, as columns.

    Attributes:
        params: The parameters.
        grads: Their gradients; a parameter is asked for its own only once in a step, because that takes long.
        states: Their states.
        inputs: The rule's element-wise arguments beside the gradient; empty where it takes none.
    """

    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Tensor]]
    inputs: list[dict[str, Tensor]]


def buckets(
    rule: Rule,
    counts: Sequence[float | None],
    params: list[Tensor],
    grads: list[Tensor],
    states: list[dict[str, Tensor]],
    inputs: list[dict[str, Tensor]],
) -> Iterator[tuple[float | None, Bucket]]:
    """Yields the parameters that share count, device, dtypes and sharding, with that count.

    Args:
        rule: The rule that is to be run.
        counts: The number of each parameter's step; None where it is on the device.
        params: The parameters.
        grads: Their gradients.
        states: Their states.
        inputs: The rule's element-wise arguments beside the gradient; empty where it takes none.
    """
    first = rule.state[0] if rule.state else "step"
    columns: list[list[Any]] = [
        list(counts),
        [param.dtype for param in params],
        [grad.dtype for grad in grads],
        [state[first].dtype for state in states],
    ]
    if False in [param.is_cpu for param in params]:
        columns.append([param.device for param in params])
    if not set(map(type, params)) <= PLAIN:
        columns.append(list(map(layout, params)))
    # Counted, which is quicker than to sort them.
    if all(column.count(column[0]) == len(column) for column in columns):
        yield counts[0], Bucket(params, grads, states, inputs)
        return
    positions: dict[tuple[Any, ...], list[int]] = {}
    for position, key in enumerate(zip(*columns, strict=True)):
        positions.setdefault(key, []).append(position)
    for key, alike in positions.items():
        yield (
            key[0],
            Bucket(
                [params[position] for position in alike],
                [grads[position] for position in alike],
                [states[position] for position in alike],
                [inputs[position] for position in alike] if inputs else [],
            ),
        )


def run(
    rule: Rule,
    way: ModuleType,
    bucket: Bucket,
    scalars: Mapping[str, float | list[Any]],
    group: Mapping[str, Any],
    numbers: Numbers | None,
    count: float | None,
    scale: LossScale = UNSCALED,
) -> None:
    """Runs a rule on parameters that share device, dtypes and sharding, and writes the results where they belong.

    Args:
        rule: The rule.
        way: The module that runs it.
        bucket: The parameters.
        scalars: The rule's keyword arguments: one number for the bucket, or one for each parameter, as a number or as a
            0-dim tensor.
        group: The hyperparameters and flags.
        numbers: The rule's statistics and memory, where it has any; the statistics are written.
        count: The number of this step; None where it is on the device.
        scale: What is to be done about the scale of the loss, if the way is a compiled one.
    """
    params, states = bucket.params, bucket.states
    stored = _stored(rule, bucket)
    written = ("param", *rule.state)
    rounding = _rounding(bucket, stored, written, group["rounding"], count)
    if scale is not UNSCALED:
        scalars = {**scalars, **_unscaling(scale, group["maximize"], len(params))}
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
    if numbers is not None:
        numbers.write(summed(sums, params))


def _unscaling(scale: LossScale, maximize: bool, count: int) -> dict[str, float | list[Tensor]]:
    """Returns the numbers by which a compiled way undoes the scale of the loss."""
    inverse = -scale.inverse if maximize else scale.inverse
    if isinstance(inverse, Tensor) and isinstance(scale.found, Tensor):
        return {"direction": [inverse] * count, SKIPPED: [scale.found] * count}
    return {"direction": float(inverse)}


def _stored(rule: Rule, bucket: Bucket) -> dict[str, list[Tensor]]:
    """Returns the tensors behind each of the rule's arguments, as real ones of this process."""
    stored: dict[str, list[Any]] = {
        "param": bucket.params,
        "grad": bucket.grads,
        **{name: [state[name] for state in bucket.states] for name in rule.state},
        **{name: [given[name] for given in bucket.inputs] for name in rule.taken},
    }
    if COMPENSATION in bucket.states[0]:
        stored[COMPENSATION] = [state[COMPENSATION] for state in bucket.states]
    params = stored["param"]
    if is_sharded(params[0]):
        stored = {name: list(map(local, column, params)) for name, column in stored.items()}
    if params[0].is_complex():
        stored = {name: list(map(real, column)) for name, column in stored.items()}
    return stored


def _rounding(
    bucket: Bucket,
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
    steps: list[Any] = [state["step"].long() if count is None else int(count) for state in bucket.states]
    return Rounding(narrow, steps, [place(param) if narrow else 0 for param in bucket.params])


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
