"""Which terms the parameters of a layer have: one function for every kind of layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from varigrad.engine.parametrised import OPERATIONS, Operation, each
from varigrad.engine.taps import Call

from .arithmetic import working_dtype
from .convolution import Convolved
from .terms import Outer, Rows, Scattered, Terms

__all__ = ["samples_first", "terms_of"]


def samples_first(call: Call, inputs: Tensor, grad: Tensor, batch_dim: int) -> tuple[Tensor, Tensor]:
    """Returns a layer's input and the gradient at its output with the samples in the first dimension.

    Args:
        call: The call; inside an attention it knows itself where the samples are.
        inputs: The input.
        grad: The gradient.
        batch_dim: The dimension of the samples in layers that work position by position.
    """
    features = {"linear": 1, "embedding": 0, "norm": len(call.arguments.get("normalized_shape", ()))}
    width = features.get(call.operation.name, 0) if call.operation.channel == -1 else 0
    by_position = call.operation.channel == -1 and call.batch is None
    if batch_dim and by_position and inputs.dim() - width > batch_dim:
        return inputs.movedim(batch_dim, 0), grad.movedim(batch_dim, 0)
    return inputs, grad


def terms_of(call: Call, inputs: Tensor, grad: Tensor) -> dict[str, Terms]:
    """Returns the terms of `"weight"` and `"bias"` of one call, as far as they require a gradient.

    Args:
        call: The call.
        inputs: The layer's input, samples first.
        grad: The gradient at its output, samples first.
    """
    dtype = working_dtype(grad)
    if inputs.is_floating_point():
        inputs = inputs.to(dtype).resolve_neg()
    found = _BUILDERS[call.operation.name](call.operation, call.arguments, inputs, grad.to(dtype).resolve_neg())
    for terms in found.values():
        terms.coarse = grad.dtype is not dtype
    return found


def _wanted(arguments: Mapping[str, Any], name: str) -> bool:
    parameter = arguments.get(name)
    return parameter is not None and parameter.requires_grad


def _linear(operation: Operation, arguments: Mapping[str, Any], inputs: Tensor, grad: Tensor) -> dict[str, Terms]:
    inputs = inputs.reshape(len(inputs), -1, inputs.shape[-1])
    grad = grad.reshape(len(grad), -1, grad.shape[-1])
    found: dict[str, Terms] = {}
    if _wanted(arguments, "weight"):
        found["weight"] = Outer(grad, inputs)
    if _wanted(arguments, "bias"):
        found["bias"] = Rows(grad.sum(1))
    return found


def _conv(operation: Operation, arguments: Mapping[str, Any], inputs: Tensor, grad: Tensor) -> dict[str, Terms]:
    found: dict[str, Terms] = {}
    if _wanted(arguments, "weight"):
        stride, padding, dilation = (
            each(arguments, *pair) for pair in (("stride", 1), ("padding", 0), ("dilation", 1))
        )
        whole, patched = (inputs, grad) if operation.name == "conv_transpose" else (grad, inputs)
        shape, groups = arguments["weight"].shape, arguments.get("groups", 1)
        found["weight"] = Convolved(whole, patched, shape, stride, padding, dilation, groups)
    if _wanted(arguments, "bias"):
        found["bias"] = Rows(grad.flatten(2).sum(2))
    return found


def _embedding(operation: Operation, arguments: Mapping[str, Any], inputs: Tensor, grad: Tensor) -> dict[str, Terms]:
    weight = arguments["weight"]
    height, width = weight.shape
    rows = inputs.reshape(len(inputs), -1).long()
    grad = grad.reshape(len(grad), -1, width)
    if arguments.get("scale_grad_by_freq", False):
        often = torch.bincount(rows.flatten(), minlength=height)
        grad = grad / often[rows].unsqueeze(-1)
    padding = arguments.get("padding_idx")
    skip = None if padding is None else padding % height
    return {"weight": Scattered(grad, rows, height, skip)}


def _norm(operation: Operation, arguments: Mapping[str, Any], inputs: Tensor, grad: Tensor) -> dict[str, Terms]:
    if operation.channel == 1:
        first, last = 2, grad.dim()
    else:
        first, last = 1, grad.dim() - len(arguments["normalized_shape"])
    between = tuple(range(first, last))
    found: dict[str, Terms] = {}
    if _wanted(arguments, "bias"):
        found["bias"] = Rows(grad.sum(between) if between else grad)
    if _wanted(arguments, "weight"):
        plain = {name: value for name, value in arguments.items() if name not in ("input", "weight", "bias")}
        if plain.get("training") or plain.get("use_input_stats"):  # the running statistics have moved already
            plain.update(running_mean=None, running_var=None)
        scaled = grad * _NORMS[operation](inputs, **plain)
        found["weight"] = Rows(scaled.sum(between) if between else scaled)
    return found


_BUILDERS: Mapping[str, Callable[..., dict[str, Terms]]] = {
    "linear": _linear,
    "conv": _conv,
    "conv_transpose": _conv,
    "embedding": _embedding,
    "norm": _norm,
}

_NORMS: Mapping[Operation, Callable[..., Tensor]] = {
    OPERATIONS[function]: function
    for function in (
        *(functional.layer_norm, functional.rms_norm, functional.group_norm),
        *(functional.batch_norm, functional.instance_norm),
    )
}
