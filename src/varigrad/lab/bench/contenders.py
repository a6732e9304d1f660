"""Who is timed: every optimizer here, torch's, and another package's where it is installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from varigrad.engine.optimizer import RuleOptimizer
from varigrad.lab.errors import LabError, unknown_name
from varigrad.lab.optimizers import OPTIMIZERS

WAYS: dict[str, dict[str, bool]] = {
    "loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
"""What to tell an optimizer so that it runs in one way and no other."""

_TORCHS = {
    "adamw": ("AdamW", {}, tuple(WAYS)),
    "sgd": ("SGD", {"momentum": 0.9}, tuple(WAYS)),
    "muon": ("Muon", {}, ("loop",)),
}
_OTHERS = {"pytorch_optimizer.vsgd": "VSGD", "pytorch_optimizer.msvag": "MSVAG"}


@dataclass(frozen=True)
class Contender:
    """An optimizer, run in one way.

    Attributes:
        optimizer: What the command line calls it.
        way: One of `WAYS`.
        make: Makes it for parameters.
        matrices_only: It takes only parameters of two dimensions.
    """

    optimizer: str
    way: str
    make: Callable[[list[Tensor]], torch.optim.Optimizer]
    matrices_only: bool = False


REFERENCE = Contender("adamw", "fused", lambda params: torch.optim.AdamW(params, fused=True))
"""What everything is compared with."""


def names() -> tuple[str, ...]:
    """The optimizers that can be timed here, the packages that are not installed left out."""
    # Those that take a model do their work in the backward pass; their steps are timed with others.
    ours = [n for n, row in OPTIMIZERS.items() if issubclass(row.optimizer, RuleOptimizer) and not row.takes_model]
    torchs = [name for name, (kind, _, _) in _TORCHS.items() if hasattr(torch.optim, kind)]
    return (*ours, *torchs, *_others())


def _others() -> dict[str, Callable[..., Any]]:
    try:
        package = importlib.import_module("pytorch_optimizer")
    except ImportError:
        return {}
    return {name: getattr(package, kind) for name, kind in _OTHERS.items() if hasattr(package, kind)}


def choose(optimizers: str, ways: str, ours: dict[str, Any]) -> tuple[Contender, ...]:
    """The contenders for names and ways separated by commas; `REFERENCE` is always the first.

    Args:
        optimizers: Names among `names()`, or `all`.
        ways: Names among `WAYS`, or `all`.
        ours: Further keyword arguments for the optimizers of this package.

    Raises:
        LabError: A name does not exist, or there is none.
    """
    chosen = _names("optimizer", optimizers, names())
    allowed = _names("way", ways, WAYS)
    others = _others()
    found = [REFERENCE]
    for name in chosen:
        for way in allowed:
            if (name, way) == (REFERENCE.optimizer, REFERENCE.way):
                continue
            if name in OPTIMIZERS and name not in _TORCHS:
                found.append(Contender(name, way, _maker(OPTIMIZERS[name].optimizer, {**WAYS[way], **ours})))
            elif name in others and way != "fused":
                found.append(Contender(name, way, _maker(others[name], {"foreach": way == "foreach"})))
            elif name in _TORCHS and way in _TORCHS[name][2]:
                kind, arguments, _ = _TORCHS[name]
                flags = WAYS[way] if name != "muon" else {}
                found.append(
                    Contender(name, way, _maker(getattr(torch.optim, kind), {**arguments, **flags}), name == "muon")
                )
    return tuple(found)


def _maker(kind: Callable[..., Any], arguments: dict[str, Any]) -> Callable[[list[Tensor]], torch.optim.Optimizer]:
    # Small enough that hundreds of steps on one gradient lead nowhere.
    return lambda params: kind(params, lr=1e-6, **arguments)


def _names(kind: str, text: str, known: Iterable[str]) -> list[str]:
    listed = list(known)
    wanted = listed if text.strip() == "all" else [part.strip() for part in text.split(",") if part.strip()]
    if not wanted:
        raise LabError(f"--{kind}s {text!r}: no names (accepted: all, or a choice of {', '.join(listed)})")
    for name in wanted:
        if name not in listed:
            raise unknown_name(kind, name, listed)
    return list(dict.fromkeys(wanted))
