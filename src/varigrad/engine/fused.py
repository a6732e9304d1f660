"""The fused way on a CPU: the rule as compiled C, one pass over memory for all tensors of a bucket."""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .c import fingerprint, symbol
from .compiled import STORED, Arrays, side_by_side, takes, written
from .library import address, kernels
from .rule import Rule
from .storage import COMPENSATION, EXACT, Rounding, width
from .threads import together

__all__ = ["run", "takes", "unavailable"]

CTYPES = {torch.float32: "float", torch.float64: "double"}

SHARE = 2**15
"""The fewest elements that a second thread is woken for."""

SPAN = 2**15
"""The most elements that a thread takes at a time; whole cache lines, so that no two threads write to the same one."""


@functools.cache
def unavailable(rule: Rule) -> str:
    """Returns why there is no compiled code for `rule`, in words; empty where there is."""
    library = kernels()
    if isinstance(library, str):
        return library
    try:
        built = (ctypes.c_char * 16).in_dll(library, symbol(rule.name, "fingerprint")).value.decode()
    except ValueError:
        return f"the compiled kernels do not know the rule {rule.name}"
    if built != fingerprint(rule):
        return f"the compiled kernels were built from another version of the rule {rule.name}: install varigrad again"
    return ""


def run(
    rule: Rule,
    tensors: dict[str, list[Tensor]],
    scalars: Mapping[str, float | list[Any]],
    maximize: bool,
    rounding: Rounding = EXACT,
) -> dict[str, Tensor]:
    """Runs `rule` on all tensors of a bucket, as they are stored, and writes the new values into them.

    Args:
        rule: The rule.
        tensors: For every name in `rule.elements` the tensors of the bucket, and the `COMPENSATION` if there is one.
        scalars: The rule's keyword arguments: one number for the bucket, or one for each tensor, which may be 0-dim.
        maximize: Climb instead of descend.
        rounding: How what is stored in low precision is written.

    Returns:
        For every name in `rule.statistics` its sums over the tensors.
    """
    names = [name for name in ("param", *rule.state, COMPENSATION) if name in tensors]
    arrays = side_by_side(tensors, names)
    sums = _call(rule, arrays, scalars, maximize, rounding)
    written(arrays, tensors, names)
    return sums


def _call(
    rule: Rule,
    arrays: Arrays,
    scalars: Mapping[str, float | list[Any]],
    maximize: bool,
    rounding: Rounding,
) -> dict[str, Tensor]:
    """Runs the compiled function on every element, in as many threads as torch itself would use."""
    library = kernels()
    assert not isinstance(library, str), "the optimizer asks `unavailable` first"
    tensors, sizes, addresses = arrays
    count = len(sizes)
    dtype = width(tensors["param"][0].dtype)
    names = [*rule.elements, COMPENSATION] if COMPENSATION in tensors else rule.elements
    pointers = array("Q")
    for name in names:
        pointers += addresses[name]
    storage: tuple[int, ...] = ()
    dtypes = [tensors[name][0].dtype for name in names]
    if dtypes.count(dtype) < len(names):
        types = array("q", map(STORED.__getitem__, dtypes))
        lanes = array("q", (rounding.lanes.get(name, -1) for name in names))
        firsts = array("q", map(int, rounding.places))
        storage = (
            *(address(types), address(lanes), int(COMPENSATION in tensors), int(rounding.steps[0])),
            address(firsts),
        )
    function = getattr(library, symbol(rule.name, CTYPES[dtype] + ("_mixed" if storage else "")))
    full = {"decay": 1.0, "direction": -1.0 if maximize else 1.0, **scalars}
    given: list[Any] = [full[name] for name in (*rule.keywords, "decay", "direction")]
    each = any(isinstance(value, list) for value in given)
    numbers = array("d", bytes(8 * len(given) * count) if each else given)
    for index, value in enumerate(given if each else ()):
        row = array("d", map(float, value)) if isinstance(value, list) else array("d", [value]) * count
        numbers[index :: len(given)] = row
    statistics = len(rule.statistics)

    spans, ends, owners = _spans(sizes, SPAN)
    workers = max(1, min(torch.get_num_threads(), sum(sizes) // SHARE))
    sums = array("d", bytes(8 * len(spans) // 3 * statistics))
    work = (
        *(workers, 0, len(ends) - 1, address(ends), address(spans), count, address(pointers)),
        *(address(numbers), len(given) if each else 0, address(sums)),
    )
    together(function, array("q", work + storage), workers)
    return _totals(rule, sums, owners, count)


def _totals(rule: Rule, sums: array[float], owners: Tensor | None, count: int) -> dict[str, Tensor]:
    """Adds up the statistics of each tensor's spans."""
    if not rule.statistics:
        return {}
    statistics = len(rule.statistics)
    totals = torch.zeros(statistics, count, dtype=torch.float64)
    # A rank may hold no element of any tensor: there is nothing to add up then.
    if sums:
        rows = torch.frombuffer(sums, dtype=torch.float64).view(-1, statistics).T
        totals = rows if owners is None else totals.index_add_(1, owners, rows)
    return dict(zip(rule.statistics, totals, strict=True))


@functools.lru_cache(maxsize=64)
def _spans(sizes: tuple[int, ...], most: int) -> tuple[array[int], array[int], Tensor | None]:
    """Divides tensors of these sizes into portions that a thread takes at a time.

    The division does not depend on the threads, and so neither do the statistics, which are added up span by span.

    Args:
        sizes: The elements of each tensor.
        most: The most elements of a span and of a portion.

    Returns:
        The spans one after the other, each a tensor's number, its first element, its end; and where the portions end:
        a 0 and for each the number of the spans in it and before. At last the number of each span's tensor, or None
        where each tensor has one span.
    """
    spans, ends, held = array("q"), array("q", [0]), 0
    for index, size in enumerate(sizes):
        for start in range(0, size, most):
            stop = min(size, start + most)
            if held + stop - start > most:
                ends.append(len(spans) // 3)
                held = 0
            spans.extend((index, start, stop))
            held += stop - start
    if held:
        ends.append(len(spans) // 3)
    owners = torch.tensor(spans[::3], dtype=torch.int64)
    return spans, ends, None if owners.tolist() == list(range(len(sizes))) else owners
