"""What all tests share: how Triton is imported, and what the garbage collector walks through."""

import gc
import os
from collections.abc import Callable

import pytest
import torch

# Where there is no GPU, Triton's kernels are interpreted: it must be told so before it is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def put_aside() -> None:
    """Has the garbage collector leave alone what there is: trainers and compilers call it, and so do tests.

    To walk through all libraries and all that thousands of tests have left takes it a second each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def young_heap() -> None:
    put_aside()


@pytest.fixture
def newer_objects() -> Callable[[], list[object]]:
    """Returns a function that lists what the garbage collector knows and what is newer than the test."""
    put_aside()
    return gc.get_objects


def pytest_unconfigure() -> None:
    """Lets the interpreter take down in the end what was put aside; some libraries complain where it does not."""
    gc.unfreeze()
