"""Compiled code for what is computed of a whole batch: a normalised gradient, and the spread of the samples' terms."""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Callable

import torch
from torch import Tensor

from .c import batch_fingerprint, symbol
from .library import address, kernels
from .threads import together

__all__ = ["add_products", "deviate", "deviations", "normalise", "normalises", "overhang", "spread", "sum_of_squares"]

CTYPES = {torch.float32: "float", torch.float64: "double"}

TALL = 6
"""Rows of a tile, as in `products.c`."""
SHARE = 2**15
"""The fewest elements, or thousands of products, that a second thread is woken for."""


def _library() -> ctypes.CDLL | None:
    """The library, unless there is none, or one from another version of this code."""
    library = kernels()
    return None if isinstance(library, str) else _current(library)


@functools.cache
def _current(library: ctypes.CDLL) -> ctypes.CDLL | None:
    try:
        built = (ctypes.c_char * 16).in_dll(library, symbol("batch", "fingerprint")).value.decode()
    except ValueError:
        return None
    return library if built == batch_fingerprint() else None


def normalises(grad: Tensor) -> bool:
    """Whether `normalise` and `sum_of_squares` can be called with a gradient."""
    plain = grad.is_cpu and grad.dtype in CTYPES and type(grad) is Tensor and not grad.is_neg()
    return plain and _library() is not None


def normalise(
    grad: Tensor,
    r: Tensor,
    gain: Tensor | None,
    result: Tensor | None,
    numbers: tuple[float, float, float, float],
) -> None:
    """Updates r ← rho r + share Σ grad², where that is finite, and writes scale / √(r + floor), and grad times that.

    Args:
        grad: The gradients of the samples, laid out one after the other without gaps.
        r: Laid out like one of them.
        gain: Where to write the factors, laid out like r; or None.
        result: Where to write the product, laid out like `grad`; or None.
        numbers: rho, share, floor and scale.
    """
    library = _library()
    assert library is not None, "the caller asks `normalises` first"
    function = library.varigrad_normalise_float if grad.dtype is torch.float32 else library.varigrad_normalise_double
    given = array("d", numbers)
    places = (0 if tensor is None else tensor.data_ptr() for tensor in (grad, r, gain, result))
    _divided(function, r.numel(), grad.numel() // SHARE, grad.numel() // r.numel(), *places, address(given))
    torch.autograd.graph.increment_version(r)


def sum_of_squares(grad: Tensor) -> Tensor:
    """Returns Σ grad², summed over the samples, which are laid out one after the other without gaps."""
    library = _library()
    assert library is not None, "the caller asks `normalises` first"
    total = torch.empty_like(grad[0])
    function = getattr(library, f"varigrad_squares_{CTYPES[grad.dtype]}")
    _divided(function, total.numel(), grad.numel() // SHARE, len(grad), grad.data_ptr(), total.data_ptr())
    return total


def spread(total: Tensor, squares: Tensor, count: int) -> Tensor:
    """Returns the variance of a sum of `count` terms, (count Σ c² - total²) / (count - 1) but not below 0.

    Args:
        total: The sum.
        squares: The sum of the squares, in whose place the result is put.
        count: How many terms there are, at least 2.
    """
    more, less = count / (count - 1), 1 / (count - 1)
    library = _library() if total.is_cpu and total.dtype in CTYPES else None
    if library is None or not (total.is_contiguous() and squares.is_contiguous()):
        return squares.mul_(more).addcmul_(total, total, value=-less).clamp_(min=0)
    function = getattr(library, f"varigrad_spread_{CTYPES[total.dtype]}")
    given = array("d", (more, less))
    _divided(function, total.numel(), total.numel() // SHARE, total.data_ptr(), squares.data_ptr(), address(given))
    torch.autograd.graph.increment_version(squares)
    return squares


def deviations(terms: Tensor, total: Tensor) -> Tensor:
    """Returns the variance of a sum of M terms, M/(M-1) Σ (c - total/M)².

    Args:
        terms: The terms, (M, *shape), M at least 2.
        total: Their sum.
    """
    count = len(terms)
    plain = terms.is_cpu and terms.dtype in CTYPES and not terms.is_neg()
    library = _library() if plain and total.dtype is terms.dtype else None
    if library is None or not (terms.is_contiguous() and total.is_contiguous()):
        return (terms - total / count).square_().sum(0).mul_(count / (count - 1))
    function = getattr(library, f"varigrad_deviations_{CTYPES[terms.dtype]}")
    result, given = torch.empty_like(total), array("d", (count / (count - 1), 1 / count))
    places = map(Tensor.data_ptr, (terms, total, result))
    _divided(function, total.numel(), terms.numel() // SHARE, count, *places, address(given))
    return result


def deviate(first: Tensor, second: Tensor, factor: float, out: Tensor) -> None:
    """Writes factor (first - second)² into a tensor.

    Args:
        first: A tensor.
        second: Another one of its shape.
        factor: A number.
        out: Where to write, of that shape.
    """
    tensors = (first, second, out)
    alike = all(tensor.dtype is out.dtype and tensor.is_contiguous() and not tensor.is_neg() for tensor in tensors)
    library = _library() if alike and out.is_cpu and out.dtype in CTYPES else None
    if library is None:
        torch.sub(first, second, out=out)
        out.square_().mul_(factor)
        return
    function = getattr(library, f"varigrad_deviate_{CTYPES[out.dtype]}")
    given = array("d", (factor,))
    _divided(function, out.numel(), out.numel() // SHARE, *map(Tensor.data_ptr, tensors), address(given))
    torch.autograd.graph.increment_version(out)


def overhang(dtype: torch.dtype) -> int:
    """How many elements at a time `add_products` reads; 0 where there is no compiled code for it."""
    library = _library()
    if library is None or dtype not in CTYPES:
        return 0
    return 2 * _vector(library) // dtype.itemsize


@functools.cache
def _vector(library: ctypes.CDLL) -> int:
    library.varigrad_vector.restype = ctypes.c_int64
    return int(library.varigrad_vector())


def add_products(
    left: Tensor,
    right: Tensor,
    places: array[int],
    pieces: array[int],
    length: int,
    total: Tensor,
    squares: Tensor,
    groups: tuple[int, int] = (1, 0),
) -> None:
    """Adds Σ_n c_n to `total` and Σ_n c_n² to `squares`, with c_n the product of the n-th left and right matrices.

    Args:
        left: (samples, rows, positions), with any strides.
        right: What the right matrices are read from, samples first; each row must be readable to the end of its last
            piece, and from there to the next multiple of `overhang`.
        places: Where the row of each position begins, in elements from the sample's first.
        pieces: Where each piece of a row begins, in elements from the row's first.
        length: Elements of each piece.
        total: (rows, pieces, length), contiguous.
        squares: The same.
        groups: How many groups of rows there are, and how far the matrices of a group lie behind those of the last.
    """
    library = _library()
    assert library is not None, "the caller asks `overhang` first"
    samples, rows, positions = left.shape
    number, distance = groups
    height = rows // number
    function: Callable[..., None] = getattr(library, f"varigrad_products_{CTYPES[left.dtype]}_{_vector(library)}")
    _divided(
        function,
        number * -(-height // TALL),
        samples * positions * total.numel() // (1024 * SHARE),
        *(samples, height, positions, len(pieces), length, *left.stride(), right.stride(0), distance),
        *(left.data_ptr(), right.data_ptr(), address(places), address(pieces), total.data_ptr(), squares.data_ptr()),
    )


def _divided(function: Callable[..., object], count: int, most: int, *words: int) -> None:
    """Runs a compiled function on `count` things, in at most so many threads.

    Args:
        function: The function.
        count: How many things there are.
        most: The most threads that they are worth.
        *words: Its other arguments, in words of 64 bits.
    """
    shares = min(torch.get_num_threads(), count, most)
    # More parts than threads, so that one that the machine slows down does less.
    parts = min(4 * shares, count) if shares > 1 else 1
    together(function, array("q", (parts, 0, count, *words)), shares)
