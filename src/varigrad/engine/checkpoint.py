"""Loading a state dict without changing what was saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor

__all__ = ["loading"]


@contextmanager
def loading(optimizer: torch.optim.Optimizer, check: Callable[[Mapping[str, Any]], None]) -> Iterator[None]:
    """Corrects, while it is open, what torch's `load_state_dict` does to saved tensors.

    Torch casts every state tensor but the step to the dtype of its parameter, which would turn the float32 statistics
    of a bfloat16 parameter into bfloat16, and integers too; and where nothing needs a cast, it shares the storage of
    the saved tensors.

    Args:
        optimizer: The optimizer whose `load_state_dict` is being called.
        check: Called with the state dict, as the user's own hooks leave it, before anything is loaded.
    """
    saved: dict[str, Any] = {}

    def remember(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
        check(state_dict)
        saved.update(state_dict)

    def restore(loaded: torch.optim.Optimizer) -> None:
        keys = chain.from_iterable(group["params"] for group in saved["param_groups"])
        groups = [(group, param) for group in loaded.param_groups for param in group["params"]]
        for key, (group, param) in zip(keys, groups, strict=True):
            for name, value in saved["state"].get(key, {}).items():
                if isinstance(value, Tensor):
                    on_host = name == "step" and not group["capturable"]
                    copy = value.to(device="cpu" if on_host else param.device, copy=True)
                    loaded.state[param][name] = copy

    # One is added last and the other put first, so that both see what the user's hooks make of the state dict.
    handles = (
        optimizer.register_load_state_dict_pre_hook(remember),
        optimizer.register_load_state_dict_post_hook(restore, prepend=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
