"""What compiled code asks of the tensors that it is given, on whatever device.

It knows few dtypes, and it looks neither at shapes nor at strides: it walks the memory of a parameter and of everything
that belongs to it side by side, so that the elements of all of them must lie there in the same order and without gaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from .storage import Rounding, is_dense

__all__ = ["STORED", "readable", "side_by_side", "takes", "written"]

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


def readable(column: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Returns the tensors in a dtype that the compiled code for `dtype` knows; only inputs can have another."""
    known = column[0].dtype is dtype or (dtype is torch.float32 and column[0].dtype in STORED)
    return column if known else [tensor.to(dtype) for tensor in column]


def side_by_side(tensors: dict[str, list[Tensor]], names: Sequence[str]) -> dict[str, list[Tensor]]:
    """Returns the tensors, copied where the elements of one parameter's arrays do not lie in memory alike.

    Args:
        tensors: The columns of a bucket, `param` among them; returned itself where nothing needs a copy.
        names: Those that are written: no lazily negated views.

    Raises:
        RuntimeError: If a shape is not that of the parameter.
    """
    return tensors if _are_plain(tensors, names) else _plain(tensors)


def written(ours: Mapping[str, list[Tensor]], theirs: Mapping[str, list[Tensor]], names: Iterable[str]) -> None:
    """Tells autograd what compiled code has written to, and brings what it wrote to copies where it belongs.

    Args:
        ours: What `side_by_side` returned.
        theirs: What it was given.
        names: The columns that were written.
    """
    names = list(names)
    # Autograd must notice that the values it saved are no longer there, as it does after one of torch's operations.
    torch.autograd.graph.increment_version([copy for name in names for copy in ours[name]])
    if ours is not theirs:
        for name in names:
            for copy, tensor in zip(ours[name], theirs[name], strict=True):
                if copy is not tensor:
                    tensor.copy_(copy)


def _are_plain(tensors: Mapping[str, list[Tensor]], names: Sequence[str]) -> bool:
    """Whether the compiled code can take the tensors as they are."""
    # One question to a thousand small tensors at a time, and the cheapest that will do: all of them to one tensor after
    # the other cost more than the step. A parameter that was given other data has another shape than all of its state.
    other = names[1] if len(names) > 1 else "grad"
    shapes, others = ([tensor.shape for tensor in tensors[name]] for name in ("param", other))
    sizes = list(map(Tensor.numel, tensors["param"]))
    return (
        all(all(map(Tensor.is_contiguous, column)) for column in tensors.values())
        and not any(any(map(Tensor.is_neg, column)) for name, column in tensors.items() if name not in names)
        and all(list(map(Tensor.numel, column)) == sizes for column in tensors.values())
        and shapes == others
    )


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
