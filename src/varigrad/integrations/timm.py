"""The optimizers by name in timm's factory and its training script."""

from __future__ import annotations

import inspect
from typing import Any

import torch

import varigrad

__all__ = ["register"]


def register() -> tuple[str, ...]:
    """Makes the optimizers of this package known to timm.

    `timm.optim.create_optimizer_v2(model, opt="vsgd", lr=..., weight_decay=...)` works from then on, with timm's layer
    decay, its groups without weight decay, and every hyperparameter as a keyword argument. Where `lr` is left out it is
    the optimizer's default. Calling it again does nothing.

    Returns:
        The names: those of the classes in lower case, because timm knows no capitals and no underscores.

    Raises:
        ImportError: If timm is not installed, or older than 1.0.12.
        ValueError: If timm or somebody else has given one of the names to another optimizer.

    Example:
        >>> import timm, varigrad.integrations.timm  # doctest: +SKIP
        >>> varigrad.integrations.timm.register()[:2]  # doctest: +SKIP
        ('vsgd', 'constantvsgd')
        >>> model = timm.create_model("resnet10t")  # doctest: +SKIP
        >>> timm.optim.create_optimizer_v2(model, opt="vsgd", lr=1e-2).defaults["lr"]  # doctest: +SKIP
        0.01
    """
    try:
        from timm.optim import OptimInfo
        from timm.optim._optim_factory import default_registry  # timm has no public way to it
    except ImportError as error:
        raise ImportError("varigrad.integrations.timm needs timm 1.0.12: pip install 'varigrad[timm]'") from error

    known = set(default_registry.list_optimizers())
    names = []
    for kind in _optimizers():
        name = kind.__name__.lower()
        names.append(name)
        if name not in known:
            default_registry.register(OptimInfo(name=name, opt_class=kind, **_facts(kind)))
        elif default_registry.get_optimizer_info(name).opt_class is not kind:
            raise ValueError(
                f"timm already has another optimizer of the name {name!r}, which register() will not replace"
            )
    return tuple(names)


def _optimizers() -> list[type[torch.optim.Optimizer]]:
    """Those that are made from parameters, which is what timm has for them."""
    public = [getattr(varigrad, name) for name in varigrad.__all__]
    kinds = [kind for kind in public if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)]
    return [kind for kind in kinds if "params" in inspect.signature(kind).parameters]


def _facts(kind: type[torch.optim.Optimizer]) -> dict[str, Any]:
    """What timm wants to know: it drops `eps` and `betas` where they are not taken, and adds nothing else."""
    arguments = inspect.signature(kind).parameters
    return {
        "description": (kind.__doc__ or "").partition("\n")[0],
        "has_eps": "eps" in arguments,
        "has_betas": "betas" in arguments,
        "has_momentum": False,
    }
