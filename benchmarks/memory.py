"""Has this process keep the memory that it has freed, while something is timed.

Giving large tensors back to the system and taking them again costs a pass of a ConvNet up to a third of its time, now
in one way of doing it, now in another, as the heap happens to lie.
"""

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of settings in glibc's malloc.h


def keep_freed_memory() -> None:
    """Has malloc give nothing back; does nothing where the system has another malloc."""
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_MAX, 0)
