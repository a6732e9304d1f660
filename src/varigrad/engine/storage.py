"""Between tensors as they are stored and as a rule computes on them.

A parameter may be a shard of something larger, complex, or of low precision. A rule sees none of this: it is given
real tensors of this process, in float32 or float64, and what it returns is written back into what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from .rounding import random_bits, stochastic

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = [
    "COMPENSATION",
    "EXACT",
    "PLAIN",
    "Rounding",
    "is_dense",
    "is_sharded",
    "layout",
    "load",
    "local",
    "place",
    "real",
    "store",
    "summed",
    "width",
]

Columns = dict[str, list[Tensor]]
"""For each of a rule's arguments one tensor per parameter."""

PLAIN = {Tensor, Parameter}
"""The types of tensors that are just that."""

COMPENSATION = "compensation"
"""The state that holds what the parameter's own dtype cannot, with `rounding="kahan"`."""


class Rounding(NamedTuple):
    """How the tensors of a bucket that are stored in low precision are written; `EXACT` where none is.

    Attributes:
        lanes: The place of each array that is rounded stochastically, by name; what is not named goes to the nearest.
        steps: The step of each parameter, an integer; a tensor of int64 where the host must not wait for it.
        places: The `place` of the part of each parameter that is here.
    """

    lanes: Mapping[str, int] = MappingProxyType({})
    steps: Sequence[Any] = ()
    places: Sequence[int | Tensor] = ()

    def bits(self, name: str, index: int, like: Tensor) -> Tensor:
        """Returns the random bits of one array, numbered in the order in which the parameter lies in memory."""
        place = self.places[index]
        bits = random_bits(self.steps[index], self.lanes[name], like.shape, place, like.device)
        in_order = isinstance(place, Tensor) or not is_dense(like)
        return bits if in_order else bits.as_strided(like.shape, like.stride())


EXACT = Rounding()


def width(dtype: torch.dtype) -> torch.dtype:
    """Returns the real dtype that a parameter of this dtype is computed in."""
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


def real(tensor: Tensor) -> Tensor:
    """Returns a complex tensor as pairs of real ones: the two parts are two weights, each with its own noise."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def is_dense(tensor: Tensor) -> bool:
    """Returns whether the elements fill a stretch of memory without gaps, in whatever order."""
    return _fill(tensor.shape, tensor.stride())


def _fill(shape: Sequence[int], strides: Sequence[int]) -> bool:
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


# ---------------------------------------------------------------- shards


def is_sharded(tensor: Tensor) -> bool:
    """Returns whether a tensor is a `DTensor`, one part of which is on each device of a mesh."""
    # By its attributes, because importing DTensor takes longer than importing the rest of this package.
    return type(tensor) not in PLAIN and hasattr(tensor, "device_mesh") and hasattr(tensor, "to_local")


def layout(tensor: Tensor) -> tuple[object, ...]:
    """Returns how a tensor is cut, and over which devices; nothing for a tensor in one piece."""
    if not is_sharded(tensor):
        return ()
    shard: DTensor = tensor  # type: ignore[assignment]
    return shard.device_mesh, shard.placements


def local(tensor: Tensor, param: Tensor) -> Tensor:
    """Returns the part of a tensor that is here, cut in the same way as its parameter."""
    if not is_sharded(param):
        return tensor
    whole: DTensor = tensor  # type: ignore[assignment]
    like: DTensor = param  # type: ignore[assignment]
    if whole.placements != like.placements:
        # Gradients that are still to be summed over the processes, for one, in tensor parallelism.
        whole = whole.redistribute(like.device_mesh, like.placements)
    return whole.to_local()


def place(param: Tensor) -> int | Tensor:
    """Returns which elements of the whole parameter the part is that is here.

    The index of its first element where it is a run, as it is where whole rows are dealt out (FSDP does so), or the
    index of each where columns are.
    """
    if not is_sharded(param):
        return 0
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shard: DTensor = param  # type: ignore[assignment]
    shape, offsets = compute_local_shape_and_global_offset(shard.shape, shard.device_mesh, shard.placements)
    strides = shard.stride()
    first = sum(offset * stride for offset, stride in zip(offsets, strides, strict=True))
    if 0 in shape or _fill(shape, strides):
        return first
    index = torch.tensor(first, device=shard.device)
    for size, stride in zip(shape, strides, strict=True):
        index = index.unsqueeze(-1) + stride * torch.arange(size, device=shard.device)
    return index


def summed(sums: Mapping[str, list[Tensor] | Tensor], params: Sequence[Tensor]) -> Mapping[str, list[Tensor] | Tensor]:
    """Adds up per-tensor statistics over the parts of parameters that are cut in the same way, in one exchange."""
    if not sums or not is_sharded(params[0]):
        return sums
    from torch.distributed.tensor import DTensor, Partial, Replicate

    like: DTensor = params[0]  # type: ignore[assignment]
    parts = [Replicate() if placement.is_replicate() else Partial() for placement in like.placements]
    stacked = torch.stack([torch.stack(list(column)) for column in sums.values()]).to(like.to_local().device)
    whole = DTensor.from_local(stacked, like.device_mesh, parts, run_check=False).full_tensor()
    return {name: list(row) for name, row in zip(sums, whole, strict=True)}


# ---------------------------------------------------------------- precision


def load(stored: Columns) -> Columns:
    """Returns the tensors in the dtype that is computed in; those that have it are the stored ones themselves."""
    dtype = width(stored["param"][0].dtype)
    tensors = {
        name: [tensor if tensor.dtype is dtype else tensor.to(dtype) for tensor in column]
        for name, column in stored.items()
        if name != COMPENSATION
    }
    if COMPENSATION in stored:
        pairs = zip(tensors["param"], stored[COMPENSATION], strict=True)
        tensors["param"] = [param + rest for param, rest in pairs]
    return tensors


def store(stored: Columns, tensors: Columns, names: Sequence[str], rounding: Rounding) -> None:
    """Writes new values into the tensors that they are for.

    Args:
        stored: The tensors as they are stored.
        tensors: The new values, as a way has left them; where one is the stored tensor itself nothing is to do.
        names: Which columns to write.
        rounding: How.
    """
    for name in names:
        moved = [i for i, (old, new) in enumerate(zip(stored[name], tensors[name], strict=True)) if new is not old]
        if not moved:
            continue
        old, new = [stored[name][i] for i in moved], [tensors[name][i] for i in moved]
        if name in rounding.lanes:
            order = [stored["param"][i] for i in moved]
            rounded = zip(moved, new, order, strict=True)
            new = [stochastic(value.float(), old[0].dtype, rounding.bits(name, i, like)) for i, value, like in rounded]
        torch._foreach_copy_(old, new)
        if name == "param" and COMPENSATION in stored:
            torch._foreach_copy_(
                stored[COMPENSATION], torch._foreach_sub(new, [value.to(new[0].dtype) for value in old])
            )
