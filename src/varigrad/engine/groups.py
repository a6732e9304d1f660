"""What stands in a parameter group, and what is refused there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from .hyperparameters import Accepts, Interval, LearningRate, OneOf, OrNone, Switch

__all__ = [
    *("CYCLED", "FLAGS", "SHARED", "check", "cycled", "group_of"),
    *("known_flags", "name_of", "place", "refuse_dtypes", "refuse_tensors", "refuse_unknown"),
]

SHARED: dict[str, Accepts] = {"lr": LearningRate(), "weight_decay": Interval()}
"""The hyperparameters that every optimizer has."""

FLAGS: dict[str, tuple[Accepts, Any]] = {
    "rounding": (OneOf(("stochastic", "kahan", "nearest")), "stochastic"),
    "state_dtype": (OrNone(OneOf((torch.bfloat16,))), None),
    "maximize": (Switch(), False),
    "foreach": (Switch(optional=True), None),
    "fused": (Switch(optional=True), None),
    "capturable": (Switch(), False),
    "differentiable": (Switch(), False),
}
"""The keyword-only flags that every optimizer takes: what they accept, and their defaults."""

_FLAGS_ACCEPT: dict[str, Accepts] = {key: accepted for key, (accepted, _) in FLAGS.items()}

CYCLED = "momentum"
"""The key under which torch's OneCycleLR and CyclicLR write into a group what takes the place of `beta`; until then it
is True."""

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128)
"""The dtypes that a parameter may have."""

BOOKKEEPING = frozenset(
    (
        *("params", "param_names", "name", "lr_scale"),
        *("initial_lr", "max_lr", "min_lr", "swa_lr", "base_momentum", "max_momentum"),
    )
)
"""The keys of a parameter group that are not ours: torch's, its schedulers' and the common trainers'."""


def check(name: str, accepts: Mapping[str, Accepts], group: Mapping[str, Any], index: int | None) -> None:
    """Raises unless every hyperparameter and flag of a group is accepted.

    Args:
        name: Whose group it is.
        accepts: What is accepted for the hyperparameters that are particular to it.
        group: The group.
        index: Its number, from 0; None for the defaults.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If a value is out of range.
        RuntimeError: If flags exclude each other.
    """
    where = place(index)
    for known in (SHARED, accepts, _FLAGS_ACCEPT):
        for key, accepted in known.items():
            accepted.check(f"{name}'s {key}{where}", group[key])
    if "beta" in group and CYCLED not in accepts and group.get(CYCLED, True) is not True:
        accepts["beta"].check(f"{name}'s {CYCLED}{place(index)}", group[CYCLED])
    if group["foreach"] and group["fused"]:
        raise RuntimeError(f"{name}{place(index)}: foreach=True and fused=True exclude each other; set one of them")
    for way in ("foreach", "fused"):
        if group[way] and group["differentiable"]:
            raise RuntimeError(f"{name}{place(index)}: {way}=True is not differentiable; leave {way}=None")
    if group["state_dtype"] is not None and group["differentiable"]:
        raise RuntimeError(f"{name}{place(index)}: rounded state is not differentiable; leave state_dtype=None")


def refuse_unknown(name: str, known: Collection[str], group: Mapping[str, Any], index: int) -> None:
    """Raises TypeError if a new group has a key that nothing knows."""
    for key in group:
        if key not in known and key not in BOOKKEEPING:
            raise TypeError(
                f"parameter group {index} has the key {key!r}, which {name} does not know: it takes "
                f"{', '.join(known)}; a note of your own can be added to optimizer.param_groups afterwards"
            )


def known_flags(name: str, flags: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the flags; raises TypeError if one of them is none."""
    for key in flags:
        if key not in FLAGS:
            raise TypeError(f"{name} does not take the argument {key!r}; besides its own it takes {', '.join(FLAGS)}")
    return flags


def place(index: int | None) -> str:
    """Returns what to say of a group's number in an error; nothing for the defaults."""
    return "" if index is None else f" (parameter group {index})"


def name_of(group: Mapping[str, Any], index: int, param: Tensor) -> str:
    """Returns what to call a parameter of a group in an error."""
    position = next(position for position, other in enumerate(group["params"]) if other is param)
    named = group["param_names"][position] if "param_names" in group else f"number {position}"
    return f"parameter {named} of group {index}"


def refuse_dtypes(owner: str, group: Mapping[str, Any], index: int) -> None:
    """Raises RuntimeError if a parameter of a new group is to be trained, but has a dtype that nothing here trains in.

    Args:
        owner: Whose group it is.
        group: The group.
        index: Its number, from 0.
    """
    for param in group["params"]:
        if param.requires_grad and param.dtype not in DTYPES:
            raise RuntimeError(
                f"{owner} cannot train {name_of(group, index, param)}, which is of {param.dtype}: keep it in "
                f"torch.bfloat16 or wider, and cast it to {param.dtype} where it is used"
            )


def refuse_tensors(owner: str, group: Mapping[str, Any], index: int, params: list[Tensor], grads: list[Tensor]) -> None:
    """Raises RuntimeError if one of these parameters of a group, or its gradient, is of a kind that cannot be stepped.

    Args:
        owner: Whose group it is.
        group: The group.
        index: Its number, from 0.
        params: The parameters.
        grads: Their gradients.
    """
    if group["differentiable"] and any(param.is_leaf and param.requires_grad for param in params):
        param = next(param for param in params if param.is_leaf and param.requires_grad)
        raise RuntimeError(
            f"{owner}: differentiable=True cannot step {name_of(group, index, param)}, because autograd allows no "
            "change of a leaf that requires a gradient: give the optimizer a clone() of it, or leave "
            "differentiable=False"
        )
    if [grad.layout for grad in grads].count(torch.strided) < len(grads):
        param = next(param for param, grad in zip(params, grads, strict=True) if grad.layout is not torch.strided)
        raise RuntimeError(
            f"{owner} needs dense gradients, but {name_of(group, index, param)} has a sparse one: build the layer "
            "with sparse=False, or give that parameter to torch.optim.SparseAdam"
        )
    if not torch.compiler.is_compiling() and (any(map(Tensor.is_conj, params)) or any(map(Tensor.is_neg, params))):
        param = next(param for param in params if param.is_conj() or param.is_neg())
        raise RuntimeError(
            f"{owner} cannot write to {name_of(group, index, param)}, which is a lazily conjugated or negated view: "
            "make it a tensor of its own with resolve_conj() or resolve_neg()"
        )
    if group["state_dtype"] is not None and any(map(torch.is_complex, params)):
        param = next(param for param in params if param.is_complex())
        raise RuntimeError(
            f"{owner}: state_dtype={group['state_dtype']} has no complex form, which {name_of(group, index, param)} "
            "needs: give complex parameters a group with state_dtype=None"
        )


def cycled(group: Mapping[str, Any]) -> Any:
    """Returns what takes the place of `beta` in a group; None where nothing does."""
    value = group.get(CYCLED, True) if "beta" in group else True
    return None if isinstance(value, bool) else value


def group_of(optimizer: torch.optim.Optimizer, param: Tensor) -> dict[str, Any]:
    """Returns the group of a parameter that has been stepped.

    Raises:
        TypeError: If it is no tensor.
        ValueError: If the optimizer does not have it.
        RuntimeError: If it has no state yet.
    """
    name = type(optimizer).__name__
    if not isinstance(param, Tensor):
        raise TypeError(f"a belief is about a parameter of {name}, a tensor, not about a {type(param).__name__}")
    for group in optimizer.param_groups:
        if any(param is one for one in group["params"]):
            if "step" not in optimizer.state.get(param, ()):
                raise RuntimeError(
                    f"{name} believes nothing yet about a parameter of shape {tuple(param.shape)}: it has not been "
                    "stepped; ask after optimizer.step() with a gradient"
                )
            return group
    raise ValueError(
        f"{name} does not have the parameter of shape {tuple(param.shape)} that it was asked about: a parameter from "
        "optimizer.param_groups is accepted"
    )
