"""Numbers that every parameter has of its own, in 0-dim tensors: the count of its steps, statistics, memory.

On the host they are read and written by compiled code where there is any: a thousand of torch's operations on one
number each take longer than a step of a thousand small tensors.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .library import address, kernels

__all__ = ["Numbers", "advance"]


class Numbers:
    """The numbers that each of many tensors has, in 0-dim tensors; for one step, in which nobody else moves them.

    Args:
        columns: For each name where the numbers are, one for each of the many.
    """

    def __init__(self, columns: Mapping[str, list[Tensor]]) -> None:
        self.columns = columns
        # Asked once: a thousand tensors take longer to say where they are than to be read.
        self._places = {name: _places(column) for name, column in columns.items()}

    def stacked(self) -> dict[str, Tensor]:
        """Returns the numbers of each name as a vector, which autograd can go back through."""
        return {name: torch.stack(column) for name, column in self.columns.items()}

    def read(self) -> dict[str, Tensor]:
        """Returns the numbers of each name as a vector."""
        known = [places for places in self._places.values() if places]
        if len(known) < len(self.columns):
            return self.stacked()
        places = array("Q")
        for some in known:
            places += some
        numbers = array("d", bytes(8 * len(places)))
        _call("read", places, numbers)
        rows = torch.frombuffer(numbers, dtype=torch.float64).float().view(len(self.columns), -1)
        return dict(zip(self.columns, rows, strict=True))

    def write(self, values: Mapping[str, Sequence[Tensor] | Tensor]) -> None:
        """Writes other numbers into the tensors.

        Args:
            values: For some names the numbers, as tensors, or as the entries of one, which the host may then wait for.
        """
        for name, row in values.items():
            if isinstance(row, Tensor) and row.device.type == "cpu" and (places := self._places[name]):
                _call("write", places, array("d", row.tolist()))
            else:
                torch._foreach_copy_(self.columns[name], list(row))


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
