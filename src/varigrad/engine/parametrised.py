"""The operations of a network that have parameters: what their arguments mean, and their parameters' gradients.

An operation is known by the function of `torch.nn.functional` that performs it. All of them are linear in their
parameters: the gradient of a parameter is a fixed linear function of the gradient that arrives at the output.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["OPERATIONS", "Operation", "each", "explicit_padding", "folded_linear"]

Gradients = tuple[Tensor | None, Tensor | None]
"""The gradients of weight and bias, each None where it is not wanted."""


@dataclass(frozen=True, eq=False)
class Operation:
    """A kind of operation.

    Attributes:
        name: `"linear"`, `"conv"`, `"conv_transpose"`, `"embedding"` or `"norm"`.
        names: The names of the function's arguments, in order.
        channel: The dimension of the output's channels.
        sample_dims: Returns how many dimensions an input without one for the samples has.
        gradients: Computes the gradients of weight and bias, in the way autograd does it, from the arguments, the
            input, the gradient at the output, and which of the two are wanted.
    """

    name: str
    names: tuple[str, ...]
    channel: int
    sample_dims: Callable[[Mapping[str, Any]], int]
    gradients: Callable[[Mapping[str, Any], Tensor, Tensor, tuple[bool, bool]], Gradients]

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the arguments of one call by name."""
        return {**dict(zip(self.names, args, strict=False)), **kwargs}


def _linear(arguments: Mapping[str, Any], x: Tensor, grad: Tensor, wanted: tuple[bool, bool]) -> Gradients:
    rows = grad.reshape(-1, grad.shape[-1])
    return (
        rows.t() @ x.reshape(-1, x.shape[-1]) if wanted[0] else None,
        rows.sum(0) if wanted[1] else None,
    )


def each(arguments: Mapping[str, Any], name: str, default: int) -> list[int]:
    """Returns what an argument of a convolution is in each dimension of space."""
    value = arguments.get(name, default)
    values = [value] if isinstance(value, int) else list(value)
    return values * (arguments["weight"].dim() - 2) if len(values) == 1 else values


def _conv(
    arguments: Mapping[str, Any], x: Tensor, grad: Tensor, wanted: tuple[bool, bool], transposed: bool
) -> Gradients:
    weight = arguments["weight"]
    if weight.dtype != x.dtype:  # autocast; the values do not enter the gradient
        weight = torch.empty_like(weight, dtype=x.dtype)
    _, for_weight, for_bias = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        [grad.shape[1]],
        each(arguments, "stride", 1),
        each(arguments, "padding", 0),
        each(arguments, "dilation", 1),
        transposed,
        each(arguments, "output_padding", 0),
        arguments.get("groups", 1),
        [False, *wanted],
    )
    return for_weight, for_bias


def _embedding(arguments: Mapping[str, Any], x: Tensor, grad: Tensor, wanted: tuple[bool, bool]) -> Gradients:
    rows, padding = arguments["weight"].shape[0], arguments.get("padding_idx")
    padding = -1 if padding is None else padding % rows
    by_frequency = bool(arguments.get("scale_grad_by_freq", False))
    return torch.ops.aten.embedding_dense_backward(grad, x, rows, padding, by_frequency), None


def _replaying(function: Callable[..., Tensor]) -> Callable[..., Gradients]:
    """The gradients of a norm layer's scale and shift, by running its forward pass again: one element-wise pass."""

    def gradients(arguments: Mapping[str, Any], x: Tensor, grad: Tensor, wanted: tuple[bool, bool]) -> Gradients:
        again = dict(arguments)
        if again.get("training") or again.get("use_input_stats"):  # else the running statistics would be moved twice
            again.update(running_mean=None, running_var=None)
        names = [name for name, want in zip(("weight", "bias"), wanted, strict=True) if want]
        with torch.enable_grad():
            leaves = {name: again[name].detach().requires_grad_() for name in names}
            output = function(**{**again, "input": x.detach(), **leaves})
        found = dict(zip(names, torch.autograd.grad(output, list(leaves.values()), grad), strict=True))
        return found.get("weight"), found.get("bias")

    return gradients


def folded_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` as it computes for a weight that requires a gradient, to the bit, for any weight.

    For such weights alone torch always makes one matrix product of many small ones.
    """
    if input.dim() < 3 or (bias is not None and input.is_contiguous()):
        return functional.linear(input, weight, bias)
    output = functional.linear(input.reshape(-1, input.shape[-1]), weight).view(*input.shape[:-1], weight.shape[0])
    return output if bias is None else output + bias


def explicit_padding(arguments: dict[str, Any], x: Tensor) -> Tensor:
    """Replaces the padding `"valid"` or `"same"` in a convolution's arguments by numbers, as torch does.

    Returns:
        The input, padded by one on the far side of the dimensions that need an odd number of zeros.
    """
    padding, kernel = arguments.get("padding"), arguments["weight"].shape[2:]
    if not isinstance(padding, str):
        return x
    if padding == "valid":
        arguments["padding"] = [0] * len(kernel)
        return x
    totals = [dilation * (size - 1) for dilation, size in zip(each(arguments, "dilation", 1), kernel, strict=True)]
    arguments["padding"] = [total // 2 for total in totals]
    if not any(total % 2 for total in totals):
        return x
    return functional.pad(x, [side for total in reversed(totals) for side in (0, total % 2)])


def _conv_kind(name: str, *further: str) -> Operation:
    gradients = functools.partial(_conv, transposed=name == "conv_transpose")
    names = ("input", "weight", "bias", *further)
    return Operation(name, names, 1, lambda arguments: arguments["weight"].dim() - 1, gradients)


def _norm(function: Callable[..., Tensor], names: str, channel: int) -> Operation:
    def sample_dims(arguments: Mapping[str, Any]) -> int:
        return len(arguments.get("normalized_shape", ()))

    return Operation("norm", ("input", *names.split()), channel, sample_dims, _replaying(function))


_f = functional
_CONV = _conv_kind("conv", "stride", "padding", "dilation", "groups")
_CONV_TRANSPOSE = _conv_kind("conv_transpose", "stride", "padding", "output_padding", "groups", "dilation")
_STATISTICS = "running_mean running_var weight bias"

OPERATIONS: Mapping[Any, Operation] = {
    _f.linear: Operation("linear", ("input", "weight", "bias"), -1, lambda arguments: 1, _linear),
    **dict.fromkeys((_f.conv1d, _f.conv2d, _f.conv3d), _CONV),
    **dict.fromkeys((_f.conv_transpose1d, _f.conv_transpose2d, _f.conv_transpose3d), _CONV_TRANSPOSE),
    _f.embedding: Operation(
        "embedding",
        ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse"),
        -1,
        lambda arguments: 0,
        _embedding,
    ),
    _f.layer_norm: _norm(_f.layer_norm, "normalized_shape weight bias eps", -1),
    _f.rms_norm: _norm(_f.rms_norm, "normalized_shape weight eps", -1),
    _f.group_norm: _norm(_f.group_norm, "num_groups weight bias eps", 1),
    _f.batch_norm: _norm(_f.batch_norm, f"{_STATISTICS} training momentum eps", 1),
    _f.instance_norm: _norm(_f.instance_norm, f"{_STATISTICS} use_input_stats momentum eps", 1),
}
"""The operations by the function that performs them."""
