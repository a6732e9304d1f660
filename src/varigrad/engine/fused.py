"""The fused way on a CPU: the rule as compiled C, one pass over memory for all tensors of a bucket."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from .c import fingerprint, symbol
from .rule import Rule

__all__ = ["run", "unavailable"]

CTYPES = {torch.float32: "float", torch.float64: "double"}

SHARE = 2**16
"""The fewest elements that a second thread is woken for."""

Span = tuple[int, int, int]
"""A tensor's number, its first element and its end."""


@functools.cache
def unavailable(rule: Rule) -> str:
    """Returns why there is no compiled code for `rule`, in words; empty where there is."""
    library = _library()
    if isinstance(library, str):
        return library
    try:
        built = (ctypes.c_char * 16).in_dll(library, symbol(rule.name, "fingerprint")).value.decode()
    except ValueError:
        return f"the compiled kernels do not know the rule {rule.name}"
    if built != fingerprint(rule):
        return f"the compiled kernels were built from another version of the rule {rule.name}: install varigrad again"
    return ""


@functools.cache
def _library() -> ctypes.CDLL | str:
    """Returns the library that was compiled when the package was built, or why there is none."""
    path = Path(__file__).with_name("_kernels.so")
    if not path.exists():
        return "varigrad was installed without compiled kernels, because no C compiler was found"
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        return f"the compiled kernels cannot be loaded: {error}"


def run(
    rule: Rule,
    tensors: dict[str, list[Tensor]],
    scalars: Mapping[str, float | list[Tensor]],
    maximize: bool,
) -> dict[str, list[Tensor]]:
    """Runs `rule` on all tensors of a bucket; the arguments and the result are those of `loop.run`.

    Like the foreach way it writes the new values into the storage of the tensors they are for.
    """
    # Nothing below looks at the shapes or at what a lazy negation means.
    dense = {name: [tensor.resolve_neg() for tensor in column] for name, column in tensors.items()}
    for index, param in enumerate(dense["param"]):
        for name, column in dense.items():
            if column[index].shape != param.shape:
                raise RuntimeError(
                    f"the {name} of a parameter of shape {tuple(param.shape)} has the shape "
                    f"{tuple(column[index].shape)}: was the parameter given other data after its first step?"
                )
        if not all(column[index].is_contiguous() for column in dense.values()) and not (
            _is_dense(param) and all(column[index].stride() == param.stride() for column in dense.values())
        ):
            for column in dense.values():
                column[index] = column[index].contiguous()
    sums = _call(rule, dense, _numbers(rule, scalars, maximize, len(dense["param"])))
    # Autograd must notice that the values it saved are no longer there, as it does after one of torch's operations.
    torch.autograd.graph.increment_version([t for name in ("param", *rule.state) for t in dense[name]])
    for name in ("param", *rule.state):
        for ours, theirs in zip(dense[name], tensors[name], strict=True):
            if ours is not theirs:
                theirs.copy_(ours)
    return sums


def _numbers(
    rule: Rule, scalars: Mapping[str, float | list[Tensor]], maximize: bool, count: int
) -> list[tuple[float, ...]]:
    """Returns for each tensor the numbers that its spans are computed with."""
    full = {"decay": 1.0, **scalars, "direction": -1.0 if maximize else 1.0}
    columns = [
        [float(v) for v in value] if isinstance(value, list) else [float(value)] * count
        for value in (full[name] for name in (*rule.keywords, "decay", "direction"))
    ]
    return list(zip(*columns, strict=True))


def _call(rule: Rule, tensors: Mapping[str, list[Tensor]], numbers: list[tuple[float, ...]]) -> dict[str, list[Tensor]]:
    """Runs the compiled function on every element, in as many threads as torch itself would use."""
    params = tensors["param"]
    library = _library()
    assert not isinstance(library, str), "the optimizer asks `unavailable` first"
    function = getattr(library, symbol(rule.name, CTYPES[params[0].dtype]))
    pointers = list(zip(*([t.data_ptr() for t in tensors[name]] for name in rule.elements), strict=True))
    statistics = len(rule.statistics)

    def work(spans: list[Span]) -> ctypes.Array[ctypes.c_double]:
        sums = (ctypes.c_double * (len(spans) * statistics))()
        function(
            ctypes.c_int64(len(spans)),
            (ctypes.c_void_p * (len(spans) * len(rule.elements)))(*[p for index, *_ in spans for p in pointers[index]]),
            (ctypes.c_int64 * (2 * len(spans)))(*[bound for _, *bounds in spans for bound in bounds]),
            (ctypes.c_double * (len(spans) * len(numbers[0])))(*[n for index, *_ in spans for n in numbers[index]]),
            sums,
        )
        return sums

    shares = list(_shares([param.numel() for param in params]))
    # ctypes lets go of the interpreter's lock during the call.
    done = [work(shares[0])] if len(shares) == 1 else list(_threads().map(work, shares))
    totals = [[0.0] * len(params) for _ in rule.statistics]
    for spans, sums in zip(shares, done, strict=True) if statistics else ():
        for row, (index, *_) in enumerate(spans):
            for column in range(statistics):
                totals[column][index] += sums[row * statistics + column]
    return {
        name: [torch.tensor(value, dtype=torch.float64) for value in column]
        for name, column in zip(rule.statistics, totals, strict=True)
    }


def _shares(sizes: list[int]) -> Iterator[list[Span]]:
    """Yields for each thread the spans it works on, all threads having about as many elements."""
    total = sum(sizes)
    count = max(1, min(torch.get_num_threads(), total // SHARE))
    spans: list[Span] = []
    done, given = 0, 1
    for index, size in enumerate(sizes):
        start = 0
        while start < size:
            # Whole cache lines, so that no two threads write to the same one.
            stop = min(size, start + max(64, (total * given // count - done) // 64 * 64)) if given < count else size
            spans.append((index, start, stop))
            done += stop - start
            start = stop
            if given < count and done >= total * given // count - 64:
                yield spans
                spans, given = [], given + 1
    yield spans


@functools.cache
def _threads() -> ThreadPoolExecutor:
    # The calling thread only waits meanwhile, so that a pool of torch's own size does not crowd the processor.
    return ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="varigrad")


if hasattr(os, "register_at_fork"):
    # A forked child has the pool but not its threads.
    os.register_at_fork(after_in_child=_threads.cache_clear)


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill a stretch of memory without gaps, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
