"""NoiseMonitor: how noisy each layer's gradient is while training runs, at the cost of a look now and then."""

from __future__ import annotations

import warnings
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from .belief import Belief, belief_of
from .engine.storage import is_sharded, layout, local, real, summed
from .noise import layer_of
from .record import COLUMNS, NoiseRecord
from .variance import GradientVariance, gradient_variance
from .writers import JSONLines, Writer

__all__ = ["NoiseMonitor"]

CERTAIN = 4.0
"""A sign is certain where the squared mean is above this many variances: two standard deviations."""


class NoiseMonitor:
    r"""Watches how noisy a training run is: a look at every so many steps, between which it costs nothing.

    Every `every` steps it finds for each layer, over all of the layer's weights,

    - `noise`, the variance of the gradient of one step, and `signal`, the squared norm of the true gradient; from them
      the signal-to-noise ratio √(signal/noise) and the noise scale, batch size times noise/signal;
    - `certain`, the share of weights whose mean is more than two standard deviations from zero; of pure noise it is
      4.6 % where the noise is normal;
    - `effective_lr`, the length of the step over that of the mean (of the gradient, where no mean is kept), weight
      decay included;
    - `systematic` and `observation`, the sums of these two variances as the optimizer believes in them;
    - `gain`, the mean over the weights of the gain that the optimizer has learned: its momentum is one minus that.

    Signal and noise come from the variance inside the mini-batch, where `p.grad_variance` says it: both are unbiased
    at the weights as they are. Otherwise they come from the gradients g and g' of two steps in a row: noise ‖g - g'‖²/2
    and signal g·g'. Those have no bias either where a step changes the true gradient little against its noise. Where
    it changes it much, which high learning rates do, the noise is too high and the signal too low; below zero it tells
    that steps overshoot. `docs/beliefs.md` has what was measured. `inside_batch=True` puts `gradient_variance` on the
    model for the steps that are looked at.

    The host never waits for the device: figures are fetched when the next are due. Nothing about training changes.
    What cannot be measured or written is told in one warning, and training goes on.

    Args:
        optimizer: Any optimizer; those that `belief_of` does not read lack `certain` and what follows `effective_lr`.
        model: The model; names the layers.
        every: Steps from one look to the next, at least 2.
        batch_size: Samples behind one step, on all workers; turns ratios into noise scales. None if unknown.
        writers: A folder for JSON lines, a writer of `varigrad.writers`, or a list of them; None to keep the figures in
            `latest` only. Where torch.distributed runs, the first process writes.
        inside_batch: Look inside the mini-batch, with `gradient_variance(model)`. A step that is looked at then costs
            1.2 to 3 times one that is not, and what `gradient_variance` refuses in `backward()` is raised there.
        start: Steps already taken, where a run is resumed.

    Attributes:
        latest: The figures of the last look that have arrived; None before.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `every` is below 2, `batch_size` below 1 or `start` below 0.

    Reference:
        McCandlish, Kaplan, Amodei: An Empirical Model of Large-Batch Training. Eq. 2.9 is the noise scale.

    Example:
        >>> import torch, varigrad
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        >>> optimizer = varigrad.MSVAG(model.parameters(), lr=0.01)
        >>> with varigrad.NoiseMonitor(optimizer, model, every=10, batch_size=16) as monitor:
        ...     for step in range(20):
        ...         optimizer.zero_grad()
        ...         model(torch.randn(16, 4)).square().mean().backward()
        ...         optimizer.step()
        >>> monitor.latest.step, list(monitor.latest.layers)
        (20, ['0', '2'])
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        every: int = 250,
        *,
        batch_size: float | None = None,
        writers: str | Path | Writer | Iterable[Writer] | None = None,
        inside_batch: bool = False,
        start: int = 0,
    ) -> None:
        _check(optimizer, model, every, batch_size, inside_batch, start)
        self.optimizer, self.model = optimizer, model
        self.every, self.batch_size, self.inside_batch = every, batch_size, inside_batch
        self.latest: NoiseRecord | None = None
        self._writers = _writers(writers)
        self._step = start
        self._warned: set[str] = set()
        self._handle: GradientVariance | None = None
        self._params: list[tuple[str, Tensor]] = []
        self._before: dict[int, Tensor] = {}
        self._earlier: dict[int, Tensor] = {}
        self._pending: deque[_Pending] = deque()
        self._hooks = [
            optimizer.register_step_pre_hook(lambda *_: self._safely(self._before_step)),
            optimizer.register_step_post_hook(lambda *_: self._safely(self._after_step)),
        ]

    def __enter__(self) -> NoiseMonitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def flush(self) -> None:
        """Waits for the figures that are still on their way, and writes them."""
        self._safely(lambda: self._drain(wait=True))

    def close(self) -> None:
        """Takes the monitor off the optimizer, writes what is left and closes the writers. May be called twice."""
        while self._hooks:
            self._hooks.pop().remove()
        self.flush()
        self._let_go()
        for writer in self._writers:
            self._safely(writer.close)
        self._writers = []

    # ---------------------------------------------------------------- around a step

    def _safely(self, action: Any) -> None:
        """Does something that must never stop the training."""
        try:
            action()
        except Exception as error:
            self._let_go()
            self._warn(f"NoiseMonitor could not measure: {type(error).__name__}: {error}")

    def _warn(self, message: str) -> None:
        kind = message.partition(":")[0]
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(f"{message}. Training goes on; this is told once", stacklevel=4)

    def _let_go(self) -> None:
        self._before, self._earlier = {}, {}
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _before_step(self) -> None:
        if (self._step + 1) % self.every == 0:
            self._params = self._named()
            self._before = {id(param): local(param, param).detach().clone() for _, param in self._params}

    def _after_step(self) -> None:
        self._step += 1
        phase = self._step % self.every
        if phase == self.every - 1:
            self._begin()
        elif phase == 0:
            self._measure()
            self._let_go()
            self._drain(wait=False)

    def _named(self) -> list[tuple[str, Tensor]]:
        """The layer and the parameter, for all that are stepped and have a gradient."""
        names = {id(param): name for name, param in self.model.named_parameters()}
        return [
            (layer_of(names.get(id(param), f"{index}.{position}")), param)
            for index, group in enumerate(self.optimizer.param_groups)
            for position, param in enumerate(group["params"])
            if param.grad is not None and param.grad.layout is torch.strided
        ]

    def _begin(self) -> None:
        """Prepares for a look at the next step."""
        if self.inside_batch:
            try:
                self._handle = gradient_variance(self.model)
                if self._handle.method != "microbatch":  # which sees nothing unless several passes make a step
                    return
            except (TypeError, ValueError, RuntimeError) as error:
                self._warn(f"NoiseMonitor cannot look inside the batch: {error}")
        inverse = self._inverse_scale()
        for _, param in self._named():
            if not hasattr(param, "grad_variance"):
                self._earlier[id(param)] = _gradient(param, inverse).clone()

    # ---------------------------------------------------------------- the look itself

    @torch.no_grad()
    def _measure(self) -> None:
        inside = all(hasattr(param, "grad_variance") for _, param in self._params)
        if inside and self._handle is not None and not self._handle.is_current():
            self._warn("NoiseMonitor skips what was clipped: the variance inside the batch is of the gradient before")
            return
        # Those that had a gradient one step ago too.
        kept = [(layer, param) for layer, param in self._params if inside or id(param) in self._earlier]
        if not kept:
            self._warn("NoiseMonitor finds no gradients: it needs p.grad in and after optimizer.step()")
            return
        params = [param for _, param in kept]
        table = _over_shards(torch.stack(self._sums(params, inside), 1), params)
        sizes = [param.numel() * (2 if param.is_complex() else 1) for param in params]
        source = "in-batch" if inside else "pair"
        self._pending.append(_Pending(self._step, source, [layer for layer, _ in kept], sizes, table))

    def _sums(self, params: list[Tensor], inside: bool) -> list[Tensor]:
        """The sums over the parts of parameters that are here, each a vector with an entry for each parameter."""
        inverse = self._inverse_scale()
        gradients = [_gradient(param, inverse) for param in params]
        squares = _squares(gradients)
        if inside:
            noise = _stacked([param.grad_variance.sum(dtype=torch.float32) for param in params])  # type: ignore[attr-defined]
            if inverse is not None:
                noise = noise * inverse.to(noise.device).square()
            signal = squares - noise
        else:
            earlier = [self._earlier[id(param)] for param in params]
            noise = _squares(torch._foreach_sub(gradients, earlier)) / 2
            signal = (squares + _squares(earlier)) / 2 - noise
        now, before = [local(param, param).detach() for param in params], [self._before[id(param)] for param in params]
        moved = _squares([real(change) for change in torch._foreach_sub(now, before)])
        beliefs = list(map(self._belief, params))
        means = [belief.mean for belief in beliefs if belief.mean is not None]
        along = _squares(means) if len(means) == len(params) else squares
        certain = _stacked([_certain(belief, noise) for belief in beliefs])
        systematic = _stacked([_total(belief.systematic_variance, noise) for belief in beliefs])
        observation = _stacked([_total(belief.observation_variance, noise) for belief in beliefs])
        gain = _stacked([_total(belief.gain, noise) for belief in beliefs])
        return [signal, noise, moved, along, certain, systematic, observation, gain]

    def _inverse_scale(self) -> Tensor | None:
        """What gradients are to be multiplied by where a GradScaler has left them scaled for the time of the step."""
        scale = getattr(self.optimizer, "grad_scale", None)
        return scale.double().reciprocal().float() if isinstance(scale, Tensor) else None

    def _belief(self, param: Tensor) -> Belief:
        try:
            return belief_of(self.optimizer, param).mapped(lambda tensor: real(local(tensor, param)))
        except TypeError:  # an optimizer that nothing is known of
            return Belief()

    # ---------------------------------------------------------------- and what comes of it

    def _drain(self, wait: bool) -> None:
        """Writes the figures that have arrived; where `wait`, those that have not yet too."""
        while self._pending and (wait or self._pending[0].arrived()):
            record = self._pending.popleft().record(self.batch_size, self.optimizer)
            self.latest = record
            for writer in tuple(self._writers):
                try:
                    writer.write(record)
                except Exception as error:
                    # A full disk or a lost backend is no reason to stop; nor is there a reason to try for ever.
                    self._writers.remove(writer)
                    kind = type(writer).__name__
                    self._warn(f"NoiseMonitor's {kind} cannot write and is given up: {type(error).__name__}: {error}")


class _Pending:
    """Figures on their way from the device."""

    def __init__(self, step: int, source: str, names: list[str], sizes: list[int], table: Tensor) -> None:
        self.step, self.source, self.names, self.sizes = step, source, names, sizes
        self.event: Any = None
        if table.device.type == "cuda":
            self.host = torch.empty(table.shape, dtype=table.dtype, pin_memory=True)
            self.host.copy_(table, non_blocking=True)
            self.event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.event.record(torch.cuda.current_stream(table.device))
        else:
            self.host = table.cpu()

    def arrived(self) -> bool:
        return self.event is None or self.event.query()

    def record(self, batch_size: float | None, optimizer: Optimizer) -> NoiseRecord:
        if self.event is not None:
            self.event.synchronize()
        sums: dict[str, list[float]] = {}
        for name, size, row in zip(self.names, self.sizes, self.host.double().tolist(), strict=True):
            total = sums.setdefault(name, [0.0] * (1 + len(row)))
            for index, value in enumerate((size, *row)):
                total[index] += value
        layers = {name: _finish(total) for name, total in sums.items()}
        return NoiseRecord(self.step, self.source, type(optimizer).__name__, batch_size, layers)


def _finish(total: list[float]) -> Mapping[str, float]:
    weights, signal, noise, moved, along, certain, systematic, observation, gain = total
    effective = (moved / along) ** 0.5 if along > 0 else float("nan")
    shares = [total / weights if weights else 0.0 for total in (certain, gain)]
    values = (weights, signal, noise, shares[0], effective, systematic, observation, shares[1])
    return dict(zip(COLUMNS, values, strict=True))


def _gradient(param: Tensor, inverse: Tensor | None) -> Tensor:
    """The gradient's part that is here, as real numbers of at least 32 bits, without the scale of a GradScaler."""
    assert param.grad is not None
    part = _wide(real(local(param.grad, param).detach()))
    return part if inverse is None else part * inverse.to(part.device, part.dtype)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _stacked(numbers: Sequence[Tensor]) -> Tensor:
    """0-dim tensors as one vector of float32, on the device of the first."""
    return torch.stack([number.to(numbers[0].device, torch.float32) for number in numbers])


def _squares(tensors: Sequence[Tensor]) -> Tensor:
    return _stacked(torch._foreach_norm([_wide(tensor) for tensor in tensors])).square()


def _certain(belief: Belief, like: Tensor) -> Tensor:
    if belief.mean is None or belief.variance is None:
        return torch.full((), torch.nan, device=like.device)
    return (belief.mean.square() > CERTAIN * belief.variance).sum(dtype=torch.float32)


def _total(variance: Tensor | None, like: Tensor) -> Tensor:
    if variance is None:
        return torch.full((), torch.nan, device=like.device)
    return variance.sum(dtype=torch.float32)


def _over_shards(table: Tensor, params: list[Tensor]) -> Tensor:
    """Adds up over the parts of parameters that are on several devices, those cut alike in one exchange."""
    if not any(map(is_sharded, params)):
        return table
    table = table.clone()
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, param in enumerate(params):
        if is_sharded(param):
            alike[layout(param)].append(index)
    for rows in alike.values():
        parts = {"rows": [table[row] for row in rows]}
        for row, whole in zip(rows, summed(parts, [params[row] for row in rows])["rows"], strict=True):
            table[row] = whole
    return table


def _check(optimizer: object, model: object, every: object, batch_size: object, inside: object, start: object) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"NoiseMonitor's optimizer must be a torch.optim.Optimizer, not {type(optimizer).__name__}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"NoiseMonitor's model must be a torch.nn.Module, not {type(model).__name__}")
    for name, value, least in (("every", every, 2), ("start", start, 0)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"NoiseMonitor's {name} must be an integer, not {value!r}")
        if value < least:
            raise ValueError(f"NoiseMonitor's {name} must be at least {least}, not {value}")
    if not isinstance(inside, bool):
        raise TypeError(f"NoiseMonitor's inside_batch must be True or False, not {inside!r}")
    if batch_size is not None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, float)):
            raise TypeError(f"NoiseMonitor's batch_size must be a number or None, not {batch_size!r}")
        if not 1 <= batch_size < float("inf"):
            raise ValueError(f"NoiseMonitor's batch_size must be at least 1 and finite, not {batch_size!r}")


def _writers(given: str | Path | Writer | Iterable[Writer] | None) -> list[Writer]:
    if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
        return []
    if given is None:
        return []
    if isinstance(given, (str, Path)):
        return [JSONLines(given)]
    return [given] if isinstance(given, Writer) else list(given)
