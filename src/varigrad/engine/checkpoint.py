"""Saving and loading a state dict so that what comes back is what was there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from .rule import Rule
from .storage import is_sharded

__all__ = ["TORCHS", "loading", "only_wants_state", "read_setting", "refuse_foreign", "refuse_incomplete", "saving"]

TORCHS = {
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "exp_inf",
    "square_avg",
    "grad_avg",
    "momentum_buffer",
    "prev",
    "sum",
}
"""What torch's own optimizers call their state."""


_CONVERTED = "; what torch's AdamW has learned can be taken along: varigrad.convert_state(state_dict, to=optimizer)"


@contextmanager
def saving(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Has dtypes among the hyperparameters saved by name, while it is open.

    Torch's gathering of whole state dicts from several ranks takes no others.

    Args:
        optimizer: The optimizer whose `state_dict` is being called.
    """

    def name_dtypes(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
        for group in state_dict["param_groups"]:
            group.update({name: str(value) for name, value in group.items() if isinstance(value, torch.dtype)})

    # First, so that the user's hooks see what is saved.
    handle = optimizer.register_state_dict_post_hook(name_dtypes, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def read_setting(saved: object, default: object) -> object:
    """Returns a hyperparameter as it was before it was saved.

    Args:
        saved: What was saved.
        default: The optimizer's own; where it is a tuple, a list is taken for one, since some formats know no tuples.
    """
    if isinstance(saved, list) and isinstance(default, tuple):
        return tuple(saved)
    if isinstance(saved, str) and saved.startswith("torch."):
        return getattr(torch, saved.removeprefix("torch."), saved)
    return saved


def only_wants_state(optimizer: torch.optim.Optimizer) -> bool:
    """Returns whether a step is not one of training, but is taken to have the state created.

    `torch.distributed.checkpoint.state_dict` takes one before it saves or loads what an optimizer without any state
    holds: with learning rates of zero, and for every parameter a gradient of zeros. As an observation it would stay in
    the statistics and in the count. A step of training in which no gradient and no learning rate differs from zero, and
    which is the very first, is taken for one of these: it could not have moved a weight either.

    Args:
        optimizer: The optimizer, which is about to step.
    """
    if optimizer.state:
        return False
    for group in optimizer.param_groups:
        # The value of a tensor elsewhere would have to be waited for, and torch puts the zero on the host.
        if (isinstance(group["lr"], Tensor) and group["lr"].device.type != "cpu") or group["lr"] != 0:
            return False
    params = [param for group in optimizer.param_groups for param in group["params"] if param.requires_grad]
    return bool(params) and all(param.grad is not None and _is_zero(param.grad) for param in params)


def _is_zero(grad: Tensor) -> bool:
    if grad.layout is not torch.strided:
        return False
    size = grad.abs().sum()
    # Every rank must come to the same answer, also one whose part of all gradients is zero.
    if is_sharded(size):
        size = size.full_tensor()  # type: ignore[attr-defined]
    return bool(size == 0)


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


def refuse_incomplete(owner: str, state_dict: Mapping[str, Any]) -> None:
    """Raises ValueError unless a state dict has the parts that all have.

    Args:
        owner: The class that is to load it.
        state_dict: The state dict.
    """
    if missing := {"state", "param_groups"} - state_dict.keys():
        raise ValueError(
            f"{owner}'s state dict must be what {owner}'s state_dict() returned, but it has no "
            f"{' and no '.join(sorted(missing))}; it has {', '.join(map(str, state_dict)) or 'nothing'}"
        )


def refuse_foreign(
    owner: str,
    rule: Rule,
    keys: Iterable[Any],
    params: Iterable[Tensor],
    state: Mapping[Any, Mapping[str, Tensor]],
    others: Collection[str],
) -> None:
    """Raises unless saved state is that of a rule for parameters of these shapes.

    Args:
        owner: The class that is to load it.
        rule: The rule that the state is for.
        keys: The keys of a group's parameters in `state`.
        params: The parameters, in the same order.
        state: The saved state; a parameter that had no gradient yet has none.
        others: The names under which any optimizer keeps state. What has another name was added by a wrapper, such as
            the slow weights of a look-ahead, and is left to it.

    Raises:
        ValueError: If the names are not the rule's, or a shape is not the parameter's.
    """
    wanted = {"step", *rule.state, *rule.statistics, *rule.memory}
    for key, param in zip(keys, params, strict=False):
        if key not in state:
            continue
        held = state[key]
        # What a low-precision parameter keeps of its rounding may be there or not: without it, it begins at zero.
        if not wanted <= set(held) or (set(held) - wanted).intersection(others):
            raise ValueError(
                f"the state dict is not {owner}'s: for parameter {key} it holds {sorted(held)}, where {sorted(wanted)} "
                f"is expected{_CONVERTED if 'exp_avg_sq' in held else ''}"
            )
        for name in rule.state:
            if held[name].shape != param.shape:
                raise ValueError(
                    f"the state dict belongs to another model: the {name} of parameter {key} has the shape "
                    f"{tuple(held[name].shape)}, where {tuple(param.shape)} is expected"
                )
