"""Reading what a tap on the layers, or the user, has found out about the spread inside a mini-batch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

__all__ = ["batch_variance"]


def batch_variance(param: Tensor, reader: str, name: Callable[[], str], least: int = 1) -> tuple[Tensor, int]:
    """Returns `param.grad_variance` and `param.grad_samples`.

    Args:
        param: A parameter with a gradient, the mean of `grad_samples` single gradients.
        reader: Who needs it.
        name: Returns what to call the parameter.
        least: The fewest samples that will do.

    Returns:
        The unbiased variance of the gradient, element by element, and the number of samples it was found from.

    Raises:
        RuntimeError: If either is missing.
        TypeError: If either is of the wrong type.
        ValueError: If the variance is not shaped like the parameter, or there are too few samples.
    """
    variance, samples = getattr(param, "grad_variance", None), getattr(param, "grad_samples", None)
    if variance is None or samples is None:
        missing = "grad_variance" if variance is None else "grad_samples"
        problem = (
            f"its {missing} is missing: after each backward pass set grad_variance (the unbiased variance of the "
            "gradient, shaped like the parameter) and grad_samples (the samples in the mini-batch)"
        )
        raise RuntimeError(_message(reader, name, problem))
    if not isinstance(variance, Tensor) or isinstance(samples, bool) or not isinstance(samples, int):
        problem = (
            f"it has a grad_variance of type {type(variance).__name__} and grad_samples = {samples!r}, where a tensor "
            "and an integer are accepted"
        )
        raise TypeError(_message(reader, name, problem))
    if variance.shape != param.shape:
        problem = f"its grad_variance has the shape {tuple(variance.shape)}, where {tuple(param.shape)} is accepted"
        raise ValueError(_message(reader, name, problem))
    if samples < least:
        problem = f"its grad_samples = {samples}, where at least {least} is accepted"
        raise ValueError(_message(reader, name, problem))
    return variance, samples


def _message(reader: str, name: Callable[[], str], problem: str) -> str:
    return f"{reader} needs the variance inside the mini-batch of {name()}, but {problem}"
