"""The threads that compiled code runs in: torch's own, where they are OpenMP's, or a pool."""

from __future__ import annotations

import ctypes
import functools
import os
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import torch

from .library import address

__all__ = ["are_torchs", "together"]

_is_forked = False


def together(function: Callable[[ctypes.c_void_p], object], arguments: array[int], count: int) -> None:
    """Runs a compiled function in `count` threads, this one among them, that divide the work among themselves.

    Args:
        function: Takes the address of its arguments, and does what is next to be done until there is nothing left.
        arguments: Its arguments, in words of 64 bits.
        count: How many threads. There may be fewer; with fewer than two this one does everything.
    """
    place = ctypes.c_void_p(address(arguments))
    if count < 2:
        function(place)
        return
    team = _team()
    if team is not None:
        team(function, place, ctypes.c_uint(count), ctypes.c_uint(0))
        return
    others = [_pool().submit(function, place) for _ in range(1, count)]
    try:
        function(place)
    finally:
        # One that has not begun is not waited for: all is done. The others still use what the caller holds.
        wait([other for other in others if not other.cancel()])


def are_torchs() -> bool:
    """Whether compiled code runs in torch's own threads, and not in a pool."""
    return _team() is not None


@functools.cache
def _team() -> Callable[..., None] | None:
    """Returns what runs a function in torch's own threads; None where they are not OpenMP's.

    They wait for work awake, so that they begin at once, and two libraries do not crowd the processor. The function is
    what compilers call for `#pragma omp parallel`, and torch's library of it is loaded for all to see.
    """
    if _is_forked or "OpenMP" not in torch.__config__.parallel_info().partition("ATen parallel backend")[2]:
        return None
    try:
        team: Callable[..., None] = ctypes.CDLL(None).GOMP_parallel
    except (TypeError, OSError, AttributeError):  # another system, or another OpenMP
        return None
    return team


@functools.cache
def _pool() -> ThreadPoolExecutor:
    # ctypes lets go of the interpreter's lock during a call.
    return ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), thread_name_prefix="varigrad")


def _forked() -> None:
    """A forked child has no threads but its first; OpenMP would wait for the others for ever."""
    global _is_forked
    _is_forked = True
    _team.cache_clear()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
