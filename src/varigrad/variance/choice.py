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
    r"""Finds, beside the gradient of every mini-batch, how uncertain it is: `p.grad_variance` beside `p.grad`.

    After `backward()` (with "vmap": after `handle.compute`) every parameter p of the model with a gradient has

        p.grad_samples  = M, the number of samples that p.grad was made of,
        p.grad_variance = M/(M-1) Σ_n (c_n - c̄)²,   where p.grad = Σ_n c_n and c̄ = p.grad/M,

    the unbiased variance of p.grad if the samples are independent of each other. It is shaped like p, in float32, or
    float64 for float64 parameters. `VSGD(variance="batch")` and `MSVAG(variance="batch")` read both by themselves. The
    formula does not ask whether the loss is a mean or a sum over the samples: c_n is what sample n adds to p.grad.

    | method | a sample is | it costs | it serves |
    |---|---|---|---|
    | "layers" | a row of the batch | part of a backward pass | layers of known kinds, see below |
    | "vmap" | a row of the batch | M gradients held at a time | any model, by `handle.compute` |
    | "microbatch" | a `backward()` between two steps | two passes over the parameters | any model |
    | "ranks" | a worker of DistributedDataParallel | one more all-reduce | any model |

    "layers" knows Linear, Conv and ConvTranspose in one to three dimensions, Embedding, MultiheadAttention, batch,
    layer, group, instance and RMS norms, their biases, layers that are called several times, and shared weights. What
    it cannot serve it refuses, with path and type: when the handle is made, a parameter of another kind of module; in
    `backward()`, a parameter that is used outside its layer too, an input whose first dimension is not that of the
    samples, a batch of one. Single gradients are never held for a whole batch.

    "auto" takes "ranks" for DistributedDataParallel, else "layers" where it can, else "microbatch"; `handle.method`,
    `handle.reason` and the log of the logger "varigrad" say which and why.

    The sums start anew when p.grad is None or zero; passes in between add to the same batch, as they add to p.grad. If
    gradients are scaled between `backward()` and the step, by clipping or a GradScaler, say so with `handle.rescale`.

    Args:
        model: The model; for "ranks" in its DistributedDataParallel, which the other methods do not serve.
        method: "auto", "layers", "vmap", "microbatch" or "ranks".
        batch_dim: For "layers": the dimension of the samples, 0 or 1, in the input of layers that work position by
            position (Linear, Embedding, LayerNorm, RMSNorm), where it has that dimension beside its features. 1 is for
            models that have the sequence first. Convolutions and other norms always have the samples first.
        penalty: For "layers": whether the loss has terms that belong to no sample, such as a penalty on the weights.
            They have no variance, and are refused otherwise, because a parameter that is used outside its layer looks
            the same. With True it is up to you that there is none.

    Returns:
        The handle: `method`, `rescale`, `compute` and `remove`, which leaves the model as it was. It is a context
        manager too.

    Raises:
        TypeError: If an argument has the wrong type, or the method cannot serve the model.
        ValueError: If an argument is out of its range, or the model has no trainable parameters, or a handle already.

    Reference:
        Balles and Hennig 2018: Dissecting Adam, Sec. D. Eq. 64 as printed subtracts g² once where M/(M-1) of it is due,
        and is biased. Chen et al.: Variational Stochastic Gradient Descent, appendix A.3, uses the variance of the
        single gradients, which is (M-1) p.grad_variance without the M/(M-1).

    Example:
        >>> import torch, varigrad
        >>> model = torch.nn.Linear(3, 1, bias=False)
        >>> optimizer = varigrad.MSVAG(model.parameters(), lr=0.1, variance="batch")
        >>> handle = varigrad.gradient_variance(model)
        >>> inputs = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 2.0]])
        >>> model(inputs).mean().backward()
        >>> model.weight.grad, model.weight.grad_variance, model.weight.grad_samples
        (tensor([[2., 0., 2.]]), tensor([[1., 0., 0.]]), 2)
        >>> optimizer.step()
        >>> handle.remove()
    """
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
    if method == "ranks":
        return RankVariance(model, reason)
    return MicrobatchVariance(model, reason) if method == "microbatch" else SampleVariance(model, reason)


def _choose(model: nn.Module) -> tuple[str, str]:
    """The method for a model, and why."""
    if isinstance(model, DistributedDataParallel):
        return "ranks", "every worker of DistributedDataParallel has a gradient of its own"
    problem = unserved(model)
    if problem is None:
        return "layers", "every parameter belongs to a layer whose single gradients are known in closed form"
    return "microbatch", f"{problem}; every step needs two backward passes at least"
