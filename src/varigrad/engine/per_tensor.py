"""Numbers that every parameter has of its own, in 0-dim tensors: the count of its steps, statistics, memory.

On the host they are read and written by compiled code where there is any: a thousand of torch's operations on one
number each take longer than a step of a thousand small tensors.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from .library import address, kernels

__all__ = ["advance", "column", "note"]


def advance(steps: list[Tensor]) -> list[float]:
    """Adds one to each of these counts, which are on the host, and returns them as numbers.

    Args:
        steps: 0-dim tensors of float32.
    """
    if not _are_known(steps):
        torch._foreach_add_(steps, 1.0)
        return [step.item() for step in steps]
    counts = array("d", bytes(8 * len(steps)))
    _call("advance", steps, counts)
    return counts.tolist()


def column(tensors: list[Tensor]) -> Tensor:
    """Returns the numbers in these 0-dim tensors as one vector."""
    if not _are_known(tensors):
        return torch.stack(tensors)
    numbers = array("d", bytes(8 * len(tensors)))
    _call("read", tensors, numbers)
    return torch.tensor(numbers, dtype=torch.float32)


def note(targets: list[Tensor], values: Sequence[Tensor] | Tensor) -> None:
    """Writes a number into each of some 0-dim tensors.

    Args:
        targets: Where to.
        values: The numbers, as tensors, or as the entries of one, which the host may then wait for.
    """
    if isinstance(values, Tensor) and values.device.type == "cpu" and _are_known(targets):
        _call("write", targets, array("d", values.tolist()))
    else:
        torch._foreach_copy_(targets, list(values))


def _are_known(tensors: list[Tensor]) -> bool:
    """Whether there is compiled code, and for such tensors."""
    if torch.compiler.is_compiling() or not hasattr(kernels(), "varigrad_write"):
        return False
    # Counted, which is quicker than to look for the first that differs.
    return len(tensors) == [t.dtype for t in tensors].count(torch.float32) == [t.is_cpu for t in tensors].count(True)


def _call(name: str, tensors: list[Tensor], numbers: array[float]) -> None:
    # Both arrays must live until the call has ended.
    pointers = array("Q", map(Tensor.data_ptr, tensors))
    function = getattr(kernels(), f"varigrad_{name}")
    function(ctypes.c_int64(len(tensors)), address(pointers), address(numbers))
