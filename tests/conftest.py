"""What all tests share: how Triton is imported, and how objects are counted."""

import gc
import os

import pytest
import torch

# Where there is no GPU, Triton's kernels are interpreted: it must be told so before it is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def newer_objects():
    """Returns a function that lists what the garbage collector knows and what is newer than the test.

    Everything older is put aside meanwhile: to walk through all that a long run of tests has made takes seconds.
    """
    gc.collect()
    gc.freeze()
    yield gc.get_objects
    gc.unfreeze()
