"""The threads that compiled code runs in."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import torch

__all__ = ["together"]


def together(work: Callable[[], object], count: int) -> None:
    """Does the same work in `count` threads, this one among them, that divide it among themselves.

    ctypes lets go of the interpreter's lock during a call of compiled code.

    Args:
        work: Takes what is next to be done until there is nothing left.
        count: How many threads; with fewer than two this one does everything.
    """
    others = [_pool().submit(work) for _ in range(1, count)]
    try:
        work()
    finally:
        # One that has not begun is not waited for: all is done. The others still use what the caller holds.
        begun = [other for other in others if not other.cancel()]
        wait(begun)
    for other in begun:
        other.result()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), thread_name_prefix="varigrad")


if hasattr(os, "register_at_fork"):
    # A forked child has the pool but not its threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)
