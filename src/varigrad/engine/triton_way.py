"""The fused way on a GPU: the rule as a Triton kernel, one launch for all tensors of a bucket.

The kernel finds its tensors by their addresses, which lie in a table on the device. The host writes it anew where an
address or a number has changed, and never waits for the device. A captured CUDA graph keeps the addresses and the
host's numbers of the step that was captured; what is to change between replays must be on the device, as `capturable`
sees to. As for torch's own optimizers, steps before the capture are needed: they compile the kernel.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import linecache
from array import array
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .compiled import Arrays, side_by_side, takes, written
from .rule import Rule
from .storage import COMPENSATION, EXACT, Rounding, width
from .triton_source import NEAREST, Variant, scalars, source

__all__ = ["run", "takes", "trouble", "unavailable"]

BLOCK = 1024
"""The elements that one program, a group of threads, computes."""

OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
"""How kernels are compiled: for programs of 128 threads, and without fused multiply-adds, because multiplications and
additions must be rounded one by one, as torch rounds them."""


@functools.cache
def unavailable(rule: Rule) -> str:
    """Returns why there are no kernels for `rule`, in words; empty where there are."""
    # Found, not imported: importing Triton takes longer than importing the rest of this package.
    if not importlib.util.find_spec("triton"):
        return "Triton is not installed"
    return "" if torch.cuda.is_available() else "there is no GPU"


@functools.cache
def trouble(device: torch.device) -> str:
    """Returns why kernels cannot be run on a device, in words; empty where they can."""
    if device.type != "cuda":
        return f"there are no kernels for devices of type {device.type}"
    # Triton needs a C compiler, a driver and a GPU that are recent enough. Only a trial tells.
    try:
        with torch.cuda.device(device):
            ends = torch.tensor([0, 1], device=device)
            ones = torch.ones(1, dtype=torch.float64, device=device)
            _total()[(1, 1)](ones, ends, torch.zeros_like(ones), 1, 1, BLOCK=BLOCK, **OPTIONS)
    except Exception as error:
        return f"a Triton kernel cannot be run on {device}: {error}"
    return ""


class Layout(NamedTuple):
    """How the programs of a launch are shared out among tensors of certain sizes; on the device.

    Attributes:
        programs: How many there are.
        owners: For each program the number of its tensor.
        table: For each tensor its size; its first element within the whole parameter; its first program, and at the
            end how many programs there are.
    """

    programs: int
    owners: Tensor
    table: Tensor

    @property
    def first_programs(self) -> Tensor:
        """The last of the three parts of the table."""
        return self.table[2 * (len(self.table) - 1) // 3 :]


def run(
    rule: Rule,
    tensors: dict[str, list[Tensor]],
    scalars: Mapping[str, float | list[Any]],
    maximize: bool,
    rounding: Rounding = EXACT,
) -> dict[str, list[Tensor]]:
    """Runs `rule` on all tensors of a bucket, as they are stored, and writes the new values into them.

    Args:
        rule: The rule.
        tensors: For every name in `rule.elements` the tensors of the bucket, and the `COMPENSATION` if there is one.
        scalars: The rule's keyword arguments: one number for the bucket, or one for each tensor, which may be 0-dim.
        maximize: Climb instead of descend.
        rounding: How what is stored in low precision is written.

    Returns:
        For every name in `rule.statistics` its sum over each tensor, on the device.
    """
    names = [name for name in ("param", *rule.state, COMPENSATION) if name in tensors]
    arrays = side_by_side(tensors, names)
    full = {"decay": 1.0, "direction": -1.0 if maximize else 1.0, **scalars}
    device = arrays.tensors["param"][0].device
    # Triton launches on the current device.
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        sums = _launch(rule, arrays, full, rounding, device)
    written(arrays, tensors, names)
    return {name: list(row) for name, row in zip(rule.statistics, sums, strict=True)}


def _launch(
    rule: Rule,
    arrays: Arrays,
    numbers: Mapping[str, float | list[Any]],
    rounding: Rounding,
    device: torch.device,
) -> Tensor:
    """Runs the kernel on every element; returns the sums, a row for each statistic."""
    tensors, sizes, places = arrays
    own = {name: value for name, value in numbers.items() if isinstance(value, list)}
    on_device = bool(rounding.lanes) and isinstance(rounding.steps[0], Tensor)
    variant = Variant(
        width=_name(width(tensors["param"][0].dtype)),
        types=tuple(_name(tensors[name][0].dtype) for name in rule.elements),
        lanes=tuple(rounding.lanes.get(name, NEAREST) for name in rule.elements),
        compensated=COMPENSATION in tensors,
        columns=tuple(own),
        steps=on_device,
    )
    firsts = tuple(map(int, rounding.places)) or (0,) * len(sizes)
    layout = _layout(sizes, firsts, BLOCK, device)
    sums = torch.zeros(len(rule.statistics), len(sizes), dtype=torch.float64, device=device)
    if layout.programs == 0:
        return sums
    addresses = array("q")
    for name in (*rule.elements, COMPENSATION) if variant.compensated else rule.elements:
        addresses.frombytes(places[name].tobytes())
    aligned = all(address % 16 == 0 for address in addresses)
    shared = (0.0 if name in own else float(numbers[name]) for name in scalars(rule))  # type: ignore[arg-type]
    addresses.frombytes(array("d", shared).tobytes())
    addresses.append(int(rounding.steps[0]) if rounding.lanes and not on_device else 0)
    table = _on_device(addresses, device)
    if _is_captured(device):
        _captured.append(layout)
    partial = torch.empty(len(rule.statistics), layout.programs, dtype=torch.float64, device=device)
    _kernel(rule, variant)[(layout.programs,)](
        table,
        layout.owners,
        layout.table,
        torch.cat([_column(value, device) for value in own.values()]) if own else table,
        torch.stack(list(rounding.steps)) if on_device else table,
        partial,
        len(sizes),
        layout.programs,
        ALIGNED=aligned,
        BLOCK=BLOCK,
        **OPTIONS,
    )
    if rule.statistics:
        _total()[(len(sizes), len(rule.statistics))](
            partial, layout.first_programs, sums, len(sizes), layout.programs, BLOCK=BLOCK, **OPTIONS
        )
    return sums


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _column(values: list[Tensor], device: torch.device) -> Tensor:
    """Returns 0-dim tensors, which may be the host's, as one of float64 on the device."""
    column = torch.stack([torch.as_tensor(value, dtype=torch.float64) for value in values])
    if column.device.type == "cpu" and device.type == "cuda":
        column = column.pin_memory()
    return column.to(device, non_blocking=True)


@functools.lru_cache(maxsize=64)
def _layout(sizes: tuple[int, ...], firsts: Sequence[int], block: int, device: torch.device) -> Layout:
    counts = torch.tensor([-(-size // block) for size in sizes])
    ends = counts.cumsum(0)
    owners = torch.arange(len(sizes), dtype=torch.int32).repeat_interleave(counts)
    table = torch.cat([torch.tensor(sizes), torch.tensor(firsts), torch.zeros(1, dtype=torch.int64), ends])
    return Layout(len(owners), owners.to(device), table.to(device))


# ---------------------------------------------------------------- the table of addresses

_staging: dict[tuple[int, int], Tensor] = {}
"""Page-locked memory for a capture, during which none can be had, by its length and the first address it is for."""

STAGED = 256
"""The most that is kept ready."""

_captured: list[object] = []
"""What captured graphs read whenever they are replayed, and what no one else may keep alive."""


def _is_captured(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _on_device(values: array[int], device: torch.device) -> Tensor:
    """Copies integers to the device, without waiting for it."""
    host = torch.frombuffer(values, dtype=torch.int64)
    if device.type != "cuda":
        return host
    known = len(values), values[0]
    if _is_captured(device):
        pinned = _staging.pop(known, None)
        pinned = torch.empty_like(host, pin_memory=True) if pinned is None else pinned
        _captured.append(pinned)
    else:
        # torch keeps such memory back until the copies out of it are done.
        pinned = torch.empty_like(host, pin_memory=True)
        if known not in _staging and len(_staging) < STAGED:
            _staging[known] = torch.empty_like(host, pin_memory=True)
    pinned.copy_(host)
    return pinned.to(device, non_blocking=True)


# ---------------------------------------------------------------- the kernels


@functools.cache
def _kernel(rule: Rule, variant: Variant) -> Any:
    """Returns the kernel of a rule; Triton compiles it at its first launch."""
    text = source(rule, variant)
    # Triton reads the source of what it compiles, by the name of its file. That there is none on disk is no
    # obstacle: the standard library looks into this cache first.
    name = f"<varigrad {rule.name} {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"__name__": f"varigrad.triton.{rule.name}"}
    exec(compile(text, name, "exec"), namespace)
    return namespace[f"varigrad_{rule.name}"]


@functools.cache
def _total() -> Any:
    from .triton_storage import total

    return total
