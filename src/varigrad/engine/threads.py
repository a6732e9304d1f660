"""The threads that compiled code runs in."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor

import torch

__all__ = ["threads"]


@functools.cache
def threads() -> ThreadPoolExecutor:
    """Returns as many threads as torch itself would use; ctypes lets go of the interpreter's lock during a call."""
    # The calling thread only waits meanwhile, so that a pool of torch's own size does not crowd the processor.
    return ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="varigrad")


if hasattr(os, "register_at_fork"):
    # A forked child has the pool but not its threads.
    os.register_at_fork(after_in_child=threads.cache_clear)
