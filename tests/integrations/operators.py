"""Makes torchvision importable beside a torch that it was not built for.

On Linux PyPI has torchvision for CUDA only, whose compiled operators do not load with a torch for CPUs. Its `import`
then fails, because it describes two of them to torch, and with it the `import` of timm, and of transformers and
Lightning, which use torchvision where it is installed. None of what is tested here calls these operators: they are
declared, not given.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys

import torch

DECLARED = ("nms", "qnms")


@functools.cache  # it lives as long as the declarations
def declare_operators() -> torch.library.Library | None:
    """Declares what torchvision describes, where it cannot be imported otherwise."""
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    else:
        return None
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in DECLARED:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    importlib.import_module("torchvision")
    return library
