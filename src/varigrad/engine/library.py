"""The library of kernels that was compiled when the package was built."""

from __future__ import annotations

import ctypes
import functools
from array import array
from pathlib import Path
from typing import Any

__all__ = ["address", "kernels"]


@functools.cache
def kernels() -> ctypes.CDLL | str:
    """Returns the library, or why there is none, in words."""
    path = Path(__file__).with_name("_kernels.so")
    if not path.exists():
        return "varigrad was installed without compiled kernels, because no C compiler was found"
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        return f"the compiled kernels cannot be loaded: {error}"


def address(values: array[Any]) -> int:
    """Returns where the numbers of an array lie."""
    return values.buffer_info()[0]
