"""Writing float32 values into 16-bit tensors without losing the small changes.

A bfloat16 number has 8 significant bits: adding less than 1/512 of it changes nothing, and a weight trained at a
learning rate of 1e-4 stands still. Stochastic rounding goes up with the probability that makes the expected value
right, so that a thousand small steps move as far as they should (Gupta et al. 2015; Zamirai et al. 2020).

The random numbers are a function of the step, the array and the element, not the output of a generator with a state:
they are the same in every way of running a rule, after a resumed checkpoint, on every replica, however a tensor is cut
into shards and whatever else the optimizer holds. `storage.c` has the same functions in C.

A random word of 32 bits serves three arrays of state: its lower half, its upper half and the sum of both are uniform,
and any two of them are independent, which is all that a variance and a covariance can see. The parameter has a word of
its own.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["LOW_PRECISION", "random_bits", "stochastic"]

LOW_PRECISION = (torch.bfloat16, torch.float16)
"""The dtypes that are written with care."""

MASK = 2**32 - 1

Integer = TypeVar("Integer", int, Tensor)


def mix(x: Integer) -> Integer:
    """Returns a permutation of the 32-bit integers in which every bit of `x` bears on every bit of the result.

    The two multipliers are Chris Wellons' "lowbias32". A tensor is one of int64, whose product wraps around without
    harm to the lower half that is kept.
    """
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & MASK
    return x ^ (x >> 16)


def random_bits(step: Integer, lane: int, shape: torch.Size, place: int | Tensor, device: torch.device) -> Tensor:
    """Returns 16 random bits for each element, as int64.

    Args:
        step: The number of the step; an integer, or a 0-dim tensor of int64 where the host must not wait for it.
        lane: The place of the array among the parameter's: 0 is the parameter itself.
        shape: The shape of the result.
        place: The index of its first element, where it is a part of something larger, or the indices of all of them.
        device: Where it is wanted.
    """
    if not isinstance(place, Tensor):
        place = torch.arange(place, place + shape.numel(), device=device, dtype=torch.int64).view(shape)
    word, part = divmod(lane + 2, 3)
    bits = mix((place & MASK) ^ mix((mix(step) + word) & MASK))
    lower, upper = bits & 0xFFFF, bits >> 16
    return (lower, (lower + upper) & 0xFFFF, upper)[part]


def stochastic(values: Tensor, dtype: torch.dtype, bits: Tensor) -> Tensor:
    """Rounds up or down so that the expected value is the true one.

    What `dtype` can represent is left alone, infinities and NaN included.

    Args:
        values: A float32 tensor.
        dtype: One of `LOW_PRECISION`.
        bits: For each element 16 random bits.

    Example:
        >>> import torch
        >>> bits = random_bits(1, 0, torch.Size([100_000]), 0, torch.device("cpu"))
        >>> values = torch.full((100_000,), 1.0 + 2**-10)  # bfloat16 knows 1 and 1 + 2^-7
        >>> rounded = stochastic(values, torch.bfloat16, bits)
        >>> rounded.unique().tolist(), round(float((rounded.float().mean() - 1.0) * 2**10), 1)
        ([1.0, 1.0078125], 1.0)
    """
    if dtype is torch.bfloat16:
        # The upper half of a float32: adding 16 random bits carries into it as often as the lower half is large.
        up = values.view(torch.int32) + bits.to(torch.int32)
        rounded = (up & -(2**16)).view(torch.float32)
    else:
        # Below 2^-14 float16's numbers are equally far apart: there 2^-14 is added, and taken off again.
        size = values.abs()
        shift = torch.where(size < 2**-14, 2.0**-14, 0.0).to(torch.float32)
        up = (size + shift).view(torch.int32) + (bits >> 3).to(torch.int32)
        rounded = ((up & -(2**13)).view(torch.float32) - shift).copysign(values)
    return torch.where(values.isfinite(), rounded, values).to(dtype)
