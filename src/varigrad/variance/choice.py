"""Choosing how the variance inside a mini-batch is found."""

from __future__ import annotations

import logging

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .handle import GradientVariance
from .layers import LayerVariance, unserved
from .microbatch import MicrobatchVariance
from .ranks import RankVariance
from .samples import SampleVariance

__all__ = ["gradient_variance"]

METHODS = ("auto", "layers", "vmap", "microbatch", "ranks")


def gradient_variance(
    model: nn.Module, method: str = "auto", *, batch_dim: int = 0, penalty: bool = False
) -> GradientVariance:
    if not isinstance(model, nn.Module):
        raise TypeError(f"gradient_variance needs a torch.nn.Module, not {type(model).__name__}")
    if method not in METHODS:
        raise ValueError(f"gradient_variance's method = {method!r} is not accepted: it must be one of {METHODS}")
    if isinstance(batch_dim, bool) or not isinstance(batch_dim, int):
        raise TypeError(f"gradient_variance's batch_dim = {batch_dim!r} is not accepted: it must be an integer")
    if batch_dim not in (0, 1):
        raise ValueError(f"gradient_variance's batch_dim = {batch_dim} is not accepted: it must be 0 or 1")
    if not isinstance(penalty, bool):
        raise TypeError(f"gradient_variance's penalty = {penalty!r} is not accepted: it must be True or False")
    reason = "as asked for"
    if method == "auto":
        method, reason = _choose(model)
        logging.getLogger("varigrad").info("gradient_variance: method=%r, because %s", method, reason)
    if method != "layers" and (batch_dim or penalty):
        raise ValueError(
            f"gradient_variance's batch_dim and penalty belong to method='layers', not to {method!r} ({reason})"
        )
    if method == "layers":
        return LayerVariance(model, reason, batch_dim, penalty)
    if isinstance(model, DistributedDataParallel) and method != "ranks":
        raise TypeError(
            f"gradient_variance(method={method!r}) cannot serve DistributedDataParallel, which averages the gradients "
            "over its workers afterwards: use method='ranks'"
        )
    kinds = {"microbatch": MicrobatchVariance, "ranks": RankVariance, "vmap": SampleVariance}
    return kinds[method](model, reason)


def _choose(model: nn.Module) -> tuple[str, str]:
    """The method for a model, and why."""
    if isinstance(model, DistributedDataParallel):
        return "ranks", "every worker of DistributedDataParallel has a gradient of its own"
    problem = unserved(model)
    if problem is None:
        return "layers", "every parameter belongs to a layer whose single gradients are known in closed form"
    return "microbatch", f"{problem}; every step needs two backward passes at least"
