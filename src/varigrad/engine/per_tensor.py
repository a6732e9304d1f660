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

__all__ = ["Numbers", "advance"]


class Numbers:
    """One number of each of many tensors, in 0-dim tensors; for one step, in which nobody else moves them.

    Args:
        tensors: Where the numbers are.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        self._places: array[int] | None = None

    def read(self) -> Tensor:
        """Returns the numbers as one vector."""
        if not (places := self._known()):
            return torch.stack(self.tensors)
        numbers = array("d", bytes(8 * len(places)))
        _call("read", places, numbers)
        return torch.frombuffer(numbers, dtype=torch.float64).float()

    def write(self, values: Sequence[Tensor] | Tensor) -> None:
        """Writes other numbers into the tensors.

        Args:
            values: The numbers, as tensors, or as the entries of one, which the host may then wait for.
        """
        if isinstance(values, Tensor) and values.device.type == "cpu" and (places := self._known()):
            _call("write", places, array("d", values.tolist()))
        else:
            torch._foreach_copy_(self.tensors, list(values))

    def _known(self) -> array[int] | None:
        # Asked once: a thousand tensors take longer to say where they are than to be read.
        if self._places is None:
            self._places = _places(self.tensors)
        return self._places


def advance(steps: list[Tensor]) -> list[float]:
    """Adds one to each of these counts, which are on the host, and returns them as numbers.

    Args:
        steps: 0-dim tensors of float32.
    """
    if not (places := _places(steps)):
        torch._foreach_add_(steps, 1.0)
        return [step.item() for step in steps]
    counts = array("d", bytes(8 * len(steps)))
    _call("advance", places, counts)
    return counts.tolist()


def _places(tensors: list[Tensor]) -> array[int] | None:
    """Where the numbers lie in memory; None where there is no compiled code, or none for such tensors."""
    if torch.compiler.is_compiling() or not hasattr(kernels(), "varigrad_write"):
        return None  # torch's compiler knows no arrays
    # Counted, which is quicker than to look for the first that differs.
    known = len(tensors) == [t.dtype for t in tensors].count(torch.float32) == [t.is_cpu for t in tensors].count(True)
    return array("Q", map(Tensor.data_ptr, tensors)) if known else None


def _call(name: str, places: array[int], numbers: array[float]) -> None:
    function = getattr(kernels(), f"varigrad_{name}")
    function(ctypes.c_int64(len(places)), ctypes.c_void_p(address(places)), ctypes.c_void_p(address(numbers)))
