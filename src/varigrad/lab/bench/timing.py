"""Timing a step: in turns with a reference, a copy and an addition, so that a change of the machine's speed meets all.

Every contender steps the same parameters on the same gradients as the reference, with state of its own. In each round
one after the other is timed, in an order that turns around from round to round; what is reported of a round are ratios.

**The yardsticks.** The floor is a pass that reads and writes the very arrays of a step and adds one to the other,
compiled as the steps are: what takes longer is arithmetic. There is one for steps of float32 with up to three state
tensors, where there are compiled kernels. The time is set, too, against those in which torch, in as many threads and on
tensors of the same sizes, moves as many bytes as a step must (it reads parameter, gradient and state, and writes
parameter and state, in place) by an addition in place and by a copy. Neither is a bound: gradients are only read, which
is cheaper than reading and writing; a processor may read the memory that a copy writes over; and caches serve what is
small.
"""

# mypy: allow-untyped-calls
# torch's dispatch mode and weak references have no types.

from __future__ import annotations

import math
import operator
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from varigrad.lab.bench.contenders import REFERENCE, Contender
from varigrad.lab.bench.shapes import Shapes
from varigrad.touch import Touch

CLOCKS = ("wall", "processor")
"""What can be measured: the time that passes, or the time that processors spend, which other programs do not add to."""

_SHORTEST = 2e-3
"""Seconds that a timed stretch should last at least; short steps are repeated."""


@dataclass(frozen=True)
class Timing:
    """What was measured of one contender on one set of parameters.

    Attributes:
        optimizer: Its name.
        way: Its way.
        shapes: The name of the parameters' shapes.
        parameters: How many numbers were stepped.
        tensors: In how many tensors.
        ms: Milliseconds of a step, the median of the rounds.
        ratio: The step's time over that of torch's fused AdamW in the same round: the median.
        ratio_low: The first quartile of these ratios.
        ratio_high: Their third quartile.
        state_bytes_per_parameter: Bytes of state kept between steps.
        temporary_bytes_per_parameter: Bytes that tensors made during a step take at most at once.
        bytes_per_second: What a step reads and writes, over its time.
        floor_ratio: The step's time over that of a pass that only touches as many arrays, the median; None where there
            is no such pass.
        addition_ratio: The step's time over that of an addition in place that moves as many bytes, the median.
        bandwidth_fraction: What a step reads and writes per second over what a copy does, the median.
    """

    optimizer: str
    way: str
    shapes: str
    parameters: int
    tensors: int
    ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    state_bytes_per_parameter: float
    temporary_bytes_per_parameter: float
    bytes_per_second: float
    bandwidth_fraction: float
    addition_ratio: float
    floor_ratio: float | None


@dataclass(frozen=True)
class Skipped:
    """A contender that could not be timed, and why."""

    optimizer: str
    way: str
    shapes: str
    reason: str


class _Watch:
    """Times what is run on a device by one of the `CLOCKS`."""

    def __init__(self, device: torch.device, clock: str) -> None:
        self._device = device
        self._now = time.process_time if clock == "processor" else time.perf_counter

    def repeats(self, run: Callable[[], object]) -> int:
        """How often to run something so that it can be timed; it is warm then."""
        run()
        return max(1, min(100, math.ceil(_SHORTEST / self.seconds(run, 1))))

    def seconds(self, run: Callable[[], object], repeats: int) -> float:
        """The time that each of so many runs takes."""
        self._wait()
        began = self._now()
        for _ in range(repeats):
            run()
        self._wait()
        return max(self._now() - began, 1e-9) / repeats

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def measure(
    contenders: Sequence[Contender],
    name: str,
    shapes: Shapes,
    rounds: int,
    dtype: torch.dtype,
    device: torch.device,
    clock: str = "wall",
) -> Iterator[Timing | Skipped]:
    """Times contenders on parameters of some shapes, one after the other.

    Args:
        contenders: Who is timed.
        name: What the shapes are called.
        shapes: The shapes of the parameters.
        rounds: How often each is timed.
        dtype: The dtype of parameters and gradients.
        device: Where they are.
        clock: One of `CLOCKS`.
    """
    watch = _Watch(device, clock)
    params = _parameters(shapes, dtype, device)
    for contender in contenders:
        chosen = [param for param in params if param.ndim == 2] if contender.matrices_only else params
        if not chosen:
            yield Skipped(contender.optimizer, contender.way, name, "takes 2-D parameters only, and there are none")
            continue
        try:
            optimizer = contender.make(chosen)
            optimizer.step()
        except (RuntimeError, ValueError, TypeError) as error:
            yield Skipped(contender.optimizer, contender.way, name, " ".join(str(error).split()))
            continue
        yield _time(contender, optimizer, name, chosen, rounds, watch)


def _parameters(shapes: Shapes, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    params = []
    for shape in shapes:
        param = torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()
        param.grad = torch.randn(shape, generator=generator).mul_(1e-2).to(device, dtype)
        params.append(param)
    return params


def _time(
    contender: Contender,
    optimizer: torch.optim.Optimizer,
    name: str,
    params: list[Tensor],
    rounds: int,
    watch: _Watch,
) -> Timing:
    """Times one contender against the reference, a copy and an addition."""
    is_reference = contender is REFERENCE
    reference = optimizer if is_reference else REFERENCE.make(params)
    source = [param.detach() for param in params]
    target = [param.clone() for param in source]
    runs: list[Callable[[], object]] = [
        optimizer.step,
        reference.step,
        lambda: torch._foreach_copy_(target, source),
        lambda: torch._foreach_add_(target, 1.0),
    ]
    if is_reference:
        del runs[1]
    floor = _floor(optimizer, params, target)
    if floor is not None:
        runs.insert(len(runs) - 2, floor.step)
    repeats = [watch.repeats(run) for run in runs]
    seconds: list[list[float]] = [[] for _ in runs]
    for number in range(rounds):
        order = range(len(runs)) if number % 2 else reversed(range(len(runs)))
        for index in order:
            seconds[index].append(watch.seconds(runs[index], repeats[index]))
    mine, copy, addition = seconds[0], seconds[-2], seconds[-1]
    ratios = [a / b for a, b in zip(mine, mine if is_reference else seconds[1], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if rounds > 1 else 3 * ratios
    count = sum(param.numel() for param in params)
    state = _state_bytes(optimizer)
    width = params[0].element_size()
    moved = 3 * count * width + 2 * state
    fractions = [(moved / a) / (2 * count * width / b) for a, b in zip(mine, copy, strict=True)]
    # Copy and addition read and write each element once.
    additions = [a / (b * moved / (2 * count * width)) for a, b in zip(mine, addition, strict=True)]
    return Timing(
        contender.optimizer,
        contender.way,
        name,
        count,
        len(params),
        ms=1e3 * statistics.median(mine),
        ratio=middle,
        ratio_low=low,
        ratio_high=high,
        state_bytes_per_parameter=state / count,
        temporary_bytes_per_parameter=temporary_bytes(optimizer) / count,
        bytes_per_second=moved / statistics.median(mine),
        bandwidth_fraction=statistics.median(fractions),
        addition_ratio=statistics.median(additions),
        floor_ratio=None if floor is None else statistics.median(map(operator.truediv, mine, seconds[-3])),
    )


def _floor(optimizer: torch.optim.Optimizer, params: list[Tensor], others: list[Tensor]) -> Touch | None:
    """The pass that touches as many arrays as a step of an optimizer, if there is one; `others` are its parameters."""
    held = [value for value in optimizer.state[params[0]].values() if value.shape == params[0].shape and value.dim()]
    if len(held) > 3 or {tensor.dtype for tensor in (*held, *params)} != {torch.float32}:
        return None
    try:
        floor = Touch(others, arrays=len(held), fused=True)
    except RuntimeError:  # no kernels
        return None
    for param, mine in zip(params, floor.param_groups[0]["params"], strict=True):
        mine.grad = param.grad
    return floor


def _state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """The bytes of the state that is shaped like the parameters."""
    return sum(
        value.numel() * value.element_size()
        for param, state in optimizer.state.items()
        for value in state.values()
        if isinstance(value, Tensor) and value.shape == param.shape
    )


def temporary_bytes(optimizer: torch.optim.Optimizer) -> int:
    """The most bytes that tensors made during a step take at once; its state must exist already."""
    allocations = _Allocations()
    with allocations:
        optimizer.step()
    return allocations.most


class _Allocations(TorchDispatchMode):
    """Counts the bytes of the tensors that operations return and that live still, in `most` the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._living: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {_storage(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        made = [value for value in tree_leaves(result) if isinstance(value, Tensor) and _storage(value) not in given]
        if made:
            self._living = {key: entry for key, entry in self._living.items() if not entry[0].expired()}
            for value in made:
                storage = value.untyped_storage()
                self._living[_storage(value)] = (StorageWeakRef(storage), storage.nbytes())
            self.most = max(self.most, sum(size for _, size in self._living.values()))
        return result


def _storage(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)
