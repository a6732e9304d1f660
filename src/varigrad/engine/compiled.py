"""What compiled code asks of the tensors that it is given, on whatever device.

It knows few dtypes, and it looks neither at shapes nor at strides: it walks the memory of a parameter and of everything
that belongs to it side by side, so that the elements of all of them must lie there in the same order and without gaps.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .storage import Rounding, is_dense, width

__all__ = ["STORED", "Arrays", "side_by_side", "takes", "written"]

STORED = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""The dtypes that arrays computed in float32 may be stored in, by their numbers in the compiled code."""


def takes(stored: Mapping[str, list[Tensor]], names: Sequence[str], rounding: Rounding) -> bool:
    """Returns whether compiled code can write the results of a bucket straight into the stored tensors.

    Args:
        stored: The columns of the bucket.
        names: Those that are written.
        rounding: How; the elements of each part must be a run of the whole parameter's.
    """
    if any(isinstance(place, Tensor) for place in rounding.places):
        return False
    dtypes = {stored[name][0].dtype for name in names}
    return dtypes <= STORED.keys() or dtypes == {torch.float64}


class Arrays(NamedTuple):
    """A bucket as compiled code takes it.

    Attributes:
        tensors: The columns; the elements of each parameter's tensors lie in memory alike.
        sizes: How many elements each parameter has.
        addresses: Where the tensors of each column lie.
    """

    tensors: dict[str, list[Tensor]]
    sizes: tuple[int, ...]
    addresses: dict[str, array[int]]


def side_by_side(tensors: dict[str, list[Tensor]], names: Sequence[str]) -> Arrays:
    """Returns the tensors, copied where the elements of one parameter's do not lie in memory alike.

    Autograd is told that those that are written will not hold any longer what it may have saved.

    Args:
        tensors: The columns of a bucket, `param` among them.
        names: Those that are written: no lazily negated views, and of dtypes that are known.

    Raises:
        RuntimeError: If a shape is not that of the parameter.
    """
    dtype = width(tensors["param"][0].dtype)
    readable = {name: column if name in names else _readable(column, dtype) for name, column in tensors.items()}
    return _as_they_are(readable, names) or _copied(readable, names)


def written(ours: Arrays, theirs: Mapping[str, list[Tensor]], names: Iterable[str]) -> None:
    """Brings what compiled code wrote to copies where it belongs.

    Args:
        ours: What `side_by_side` returned.
        theirs: What it was given.
        names: The columns that were written.
    """
    for name in names:
        if ours.tensors[name] is not theirs[name]:
            for copy, tensor in zip(ours.tensors[name], theirs[name], strict=True):
                if copy is not tensor:
                    tensor.copy_(copy)


def _readable(column: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Returns the tensors in a dtype that the compiled code for `dtype` knows; only inputs can have another."""
    known = column[0].dtype is dtype or (dtype is torch.float32 and column[0].dtype in STORED)
    return column if known else [tensor.to(dtype) for tensor in column]


def _as_they_are(tensors: dict[str, list[Tensor]], names: Sequence[str]) -> Arrays | None:
    """Returns the tensors themselves; None if compiled code cannot take them as they are."""
    # One question to a thousand small tensors at a time, and the cheapest that will do: all of them to one tensor after
    # the other cost more than the step. Column by column, because the processor then has the tensors at hand. A
    # parameter that was given other data has another shape than all of its state.
    other = names[1] if len(names) > 1 else "grad"
    shapes = [tensor.shape for tensor in tensors["param"]]
    sizes = list(map(torch.Size.numel, shapes))
    addresses = {}
    for name, column in tensors.items():
        if name == other:
            alike = [tensor.shape for tensor in column] == shapes
        else:
            alike = name == "param" or list(map(Tensor.numel, column)) == sizes
        if not alike or not all(map(Tensor.is_contiguous, column)):
            return None
        if name not in names and any(map(Tensor.is_neg, column)):
            return None
        addresses[name] = _addresses(column, name in names)
    return Arrays(tensors, tuple(sizes), addresses)


def _copied(tensors: Mapping[str, list[Tensor]], names: Sequence[str]) -> Arrays:
    """Returns tensors that lie in memory as the parameters do, where they can as the parameters themselves do."""
    plain = _plain(tensors)
    addresses = {name: _addresses(column, name in names) for name, column in plain.items()}
    return Arrays(plain, tuple(map(Tensor.numel, plain["param"])), addresses)


def _addresses(column: list[Tensor], is_written: bool) -> array[int]:
    if is_written:
        torch.autograd.graph.increment_version(column)
    return array("Q", map(Tensor.data_ptr, column))


def _plain(tensors: Mapping[str, list[Tensor]]) -> dict[str, list[Tensor]]:
    plain = {name: [tensor.resolve_neg() for tensor in column] for name, column in tensors.items()}
    for index, param in enumerate(plain["param"]):
        order = param if is_dense(param) else param.contiguous()
        for name, column in plain.items():
            tensor = column[index]
            if tensor.shape != param.shape:
                raise RuntimeError(
                    f"the {name} of a parameter of shape {tuple(param.shape)} has the shape {tuple(tensor.shape)}: was "
                    "the parameter given other data after its first step?"
                )
            if tensor.stride() != order.stride():
                column[index] = _like(order, tensor)
    return plain


def _like(order: Tensor, tensor: Tensor) -> Tensor:
    """Returns a copy of a tensor that lies in memory as `order` does."""
    copy = torch.empty_strided(order.shape, order.stride(), dtype=tensor.dtype, device=tensor.device)
    return copy.copy_(tensor)
