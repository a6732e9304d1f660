"""noise_scale: how large a batch could be before more samples stop paying, from what an optimizer believes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .belief import belief_of
from .engine.storage import is_sharded, real, width

__all__ = ["NoiseScale", "noise_scale"]


class NoiseScale(float):
    r"""A noise scale tr(Σ)/‖ḡ‖² in samples, a float that says what it rests on.

    It is infinite where no signal can be told from the noise, NaN where there is neither.

    Attributes:
        signal: The estimate of ‖ḡ‖², the squared norm of the true gradient; noise can push it below zero.
        noise: The estimate of tr(Σ)/B, the summed variance of one observed gradient.
        interval: Lowest and highest noise scale within one standard deviation of signal and noise, whatever the
            correlations between weights are; the highest is infinite where the signal may be zero.
        rests_on: "in-batch" for the variance inside the mini-batch, "state" for the optimizer's state.
        groups: The noise scales of the parameter groups.
        layers: The noise scales of the layers, by their names.
    """

    signal: float
    noise: float
    interval: tuple[float, float]
    rests_on: str
    groups: tuple[NoiseScale, ...]
    layers: Mapping[str, NoiseScale]

    @classmethod
    def of(
        cls, signal: float, noise: float, left: float, share: float, batch_size: float, rests_on: str = ""
    ) -> NoiseScale:
        """Returns the noise scale that two sums amount to.

        Args:
            signal: Σ m² less what is noise in it.
            noise: The summed variances of the observed gradient.
            left: The summed variances of m.
            share: The relative variance of `noise`, at most.
            batch_size: Samples behind one observed gradient.
            rests_on: Where the variances come from.
        """
        scale = cls(_over(batch_size * noise, signal))
        # The variance of a squared norm is 2 tr(V²) + 4 ḡᵀVḡ; V is known by its trace alone, which bounds both.
        spread = math.sqrt(2.0 * left**2 + 4.0 * left * max(signal, 0.0))
        uncertain = noise * math.sqrt(share)
        lowest = batch_size * max(noise - uncertain, 0.0), max(signal, 0.0) + spread
        highest = batch_size * (noise + uncertain), signal - spread
        scale.signal, scale.noise, scale.rests_on = signal, noise, rests_on
        scale.interval = _over(*lowest), _over(*highest)
        scale.groups, scale.layers = (), {}
        return scale

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (float(self), self.__dict__)


def _restore(value: float, attributes: dict[str, Any]) -> NoiseScale:
    scale = NoiseScale(value)
    scale.__dict__.update(attributes)
    return scale


def _over(noise: float, signal: float) -> float:
    if signal > 0.0:
        return noise / signal
    return math.inf if noise > 0.0 else math.nan


@torch.no_grad()
def noise_scale(optimizer: torch.optim.Optimizer, batch_size: float, model: nn.Module | None = None) -> NoiseScale:
    r"""Estimates the noise scale tr(Σ)/‖ḡ‖² at the weights as they are: the critical batch size.

    Σ is the covariance of the gradients of single samples, ḡ the true gradient. Batches much smaller than the noise
    scale waste steps, much larger ones waste samples; at the noise scale training takes about twice the fewest steps
    and twice the fewest samples possible.

    Two sources, in this order:

    - "in-batch": if every parameter with a gradient has `p.grad_variance` (see `varigrad.gradient_variance`), the noise
      is their sum, and the signal ‖g‖² less that sum. Both are unbiased at the present weights. Call it after
      `backward()`. A batch of the order of the noise scale is needed to see the signal: accumulate several.
    - "state": else from what the optimizer believes (`varigrad.belief_of`): the noise is Σ observation_variance, and
      the signal Σ mean² - Σ mean_noise, because the noise that is left in the mean would count as signal. That is
      right where the true gradient moves little while the optimizer forgets: at rest. Where the weights move their
      motion counts as noise, and the signal averages out: in training it was off by a factor of ten or more, either
      way, and often infinite. `docs/beliefs.md` has what was measured; decide nothing by it without the other source.

    Args:
        optimizer: An optimizer that `belief_of` reads or, with the variance inside the mini-batch, any.
        batch_size: Samples behind one `p.grad`, accumulated and on all workers; in [1, ∞).
        model: Names the layers, which otherwise go by the names that the optimizer was given, or by numbers.

    Returns:
        The noise scale over all parameters, in samples, with its uncertainty and those of groups and layers.

    Raises:
        TypeError: If `belief_of` cannot read the optimizer, or `batch_size` is no number.
        ValueError: If `batch_size` is below 1 or not finite.
        RuntimeError: If neither source is there.

    Reference:
        McCandlish, Kaplan, Amodei: An Empirical Model of Large-Batch Training. Eq. 2.9, there B_simple.

    Example:
        >>> import torch, varigrad
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> weight = torch.zeros(20000, requires_grad=True)
        >>> optimizer = varigrad.MSVAG([weight], lr=0.0)
        >>> for step in range(100):
        ...     weight.grad = 0.5 + 2.0 * torch.randn(20000)  # the variance of a batch is 4, the squared gradient 1/4
        ...     optimizer.step()
        >>> scale = varigrad.noise_scale(optimizer, batch_size=32)
        >>> bool(abs(scale / (32 * 4 / 0.25) - 1) < 0.1), scale.rests_on
        (True, 'state')
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, float)):
        raise TypeError(f"noise_scale's batch_size = {batch_size!r} is not accepted: it must be a number in [1, ∞)")
    if not (1 <= batch_size < math.inf):
        raise ValueError(f"noise_scale's batch_size = {batch_size!r} is not accepted: it must be in [1, ∞)")
    members = list(_members(optimizer, model))
    graded = [param for _, _, param in members if param.grad is not None]
    in_batch = bool(graded) and all(isinstance(getattr(param, "grad_variance", None), Tensor) for param in graded)
    rows: list[tuple[int, str]] = []
    sums: list[Tensor] = []
    for index, layer, param in members:
        found = _in_batch(param) if in_batch else _from_state(optimizer, param)
        if found is not None:
            rows.append((index, layer))
            sums.append(found)
    if not sums:
        raise RuntimeError(
            f"noise_scale finds no variance in {type(optimizer).__name__}: it needs an optimizer that keeps one and "
            "has been stepped twice, or p.grad_variance from varigrad.gradient_variance(model) after backward()"
        )
    table = torch.stack(sums).tolist()
    rests_on = "in-batch" if in_batch else "state"

    def total(chosen: Iterable[Sequence[float]]) -> NoiseScale:
        signal, noise, left, uncertain = map(sum, zip(*chosen, strict=True))
        # Relative variances of parts that may err together are averaged by their size.
        return NoiseScale.of(signal, noise, left, uncertain / noise if noise else 0.0, batch_size, rests_on)

    scale = total(table)
    scale.groups = tuple(
        total([row for row, (index, _) in zip(table, rows, strict=True) if index == number] or [[0.0] * 4])
        for number in range(len(optimizer.param_groups))
    )
    names = dict.fromkeys(layer for _, layer in rows)
    scale.layers = {
        name: total([row for row, (_, layer) in zip(table, rows, strict=True) if layer == name]) for name in names
    }
    return scale


def _members(optimizer: torch.optim.Optimizer, model: nn.Module | None) -> Iterable[tuple[int, str, Tensor]]:
    """Yields for every parameter its group, the name of its layer, and itself."""
    names = {} if model is None else {id(param): name for name, param in model.named_parameters()}
    for index, group in enumerate(optimizer.param_groups):
        for position, param in enumerate(group["params"]):
            own = group["param_names"][position] if "param_names" in group else None
            name = names.get(id(param), own)
            yield index, layer_of(name) if name is not None else f"{index}.{position}", param


def layer_of(name: str) -> str:
    """Returns the path of the module that a parameter of this name is in; the name itself for a model's own."""
    return name.rpartition(".")[0] or name


def _in_batch(param: Tensor) -> Tensor | None:
    if param.grad is None:
        return None
    gradient = real(param.grad).to(width(param.dtype))
    noise = param.grad_variance.sum(dtype=torch.float64)  # type: ignore[attr-defined]
    samples = getattr(param, "grad_samples", 2)
    signal = gradient.square().sum(dtype=torch.float64) - noise
    return torch.stack((signal, noise, noise, noise * (2.0 / max(samples - 1, 1)))).cpu()


def _from_state(optimizer: torch.optim.Optimizer, param: Tensor) -> Tensor | None:
    if param not in optimizer.state or "step" not in optimizer.state[param]:
        return None
    belief = belief_of(optimizer, param)
    if belief.mean is None or belief.observation_variance is None or belief.mean_noise is None:
        return None
    # Sums over all of a parameter, wherever its parts are; the parts of complex ones are weights of their own.
    square, noise, left = (
        _sum(part)
        for part in (_parts(belief.mean).square(), _parts(belief.observation_variance), _parts(belief.mean_noise))
    )
    # An average that leaves this share of the noise in the mean is of as many squares.
    return torch.stack((square - left, noise, left, 2.0 * left)).cpu()


def _parts(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _sum(tensor: Tensor) -> Tensor:
    total = tensor.sum(dtype=torch.float64)
    return total.full_tensor() if is_sharded(total) else total  # type: ignore[attr-defined]
