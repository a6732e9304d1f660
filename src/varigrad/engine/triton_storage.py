"""What all Triton kernels share: reading and writing arrays of 16 bits, and adding up what programs have found.

The integer arithmetic is that of rounding.py, bit for bit. bfloat16 is handled as integers, which every GPU has.
Importing this needs Triton; only the generated kernels and their runner do so.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton compiles these functions: their arguments are blocks and have no Python types.

import triton
import triton.language as tl

__all__ = [
    "both",
    "copysign",
    "lower",
    "narrow_bfloat16",
    "random_word",
    "stochastic_bfloat16",
    "stochastic_float16",
    "total",
    "upper",
    "widen_bfloat16",
]


@triton.jit
def mix(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def random_word(step, word: tl.constexpr, index):
    """Returns the random word of these elements that serves the three arrays with this number."""
    return mix(index.to(tl.uint32) ^ mix(mix(step.to(tl.uint32)) + word))


@triton.jit
def lower(word):
    """Returns 16 bits of a random word."""
    return word & 0xFFFF


@triton.jit
def upper(word):
    """Returns the 16 bits of a random word that are independent of the lower ones."""
    return word >> 16


@triton.jit
def both(word):
    """Returns 16 bits that are independent of the lower ones, and of the upper ones."""
    return lower(word + upper(word))


@triton.jit
def copysign(x, y):
    """Returns numbers with the signs of others, those of zeros included."""
    if x.dtype == tl.float64:
        size, signs = x.to(tl.uint64, bitcast=True), y.to(tl.uint64, bitcast=True)
        return (size & 0x7FFFFFFFFFFFFFFF | signs & 0x8000000000000000).to(tl.float64, bitcast=True)
    else:  # noqa: RET505 - Triton compiles one of the two
        size, signs = x.to(tl.uint32, bitcast=True), y.to(tl.uint32, bitcast=True)
        return (size & 0x7FFFFFFF | signs & 0x80000000).to(tl.float32, bitcast=True)


@triton.jit
def widen_bfloat16(bits):
    """Returns bfloat16 numbers, given as integers, as float32."""
    return (bits.to(tl.uint32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def upper_half(bits, up):
    size = bits & 0x7FFFFFFF
    kept = tl.where(size > 0x7F800000, bits | 0x400000, bits)  # a NaN stays one
    return (tl.where(size < 0x7F800000, bits + up, kept) >> 16).to(tl.uint16)


@triton.jit
def narrow_bfloat16(x):
    """Returns the nearest bfloat16 numbers, as integers."""
    bits = x.to(tl.uint32, bitcast=True)
    return upper_half(bits, ((bits >> 16) & 1) + 0x7FFF)


@triton.jit
def stochastic_bfloat16(x, random):
    """Returns the bfloat16 number above or below, as integers, by 16 random bits."""
    return upper_half(x.to(tl.uint32, bitcast=True), random)


@triton.jit
def stochastic_float16(x, random):
    """Returns the float16 number above or below by 16 random bits."""
    bits = x.to(tl.uint32, bitcast=True)
    size = (bits & 0x7FFFFFFF).to(tl.float32, bitcast=True)
    # Below 2^-14 float16's numbers are equally far apart: there 2^-14 is added, and taken off again.
    shift = tl.where(size < 6.103515625e-05, 6.103515625e-05, 0.0).to(tl.float32)
    up = (size + shift).to(tl.uint32, bitcast=True) + (random >> 3)
    rounded = (up & 0xFFFFE000).to(tl.float32, bitcast=True) - shift
    signed = rounded.to(tl.uint32, bitcast=True) | (bits & 0x80000000)
    finite = (bits & 0x7FFFFFFF) < 0x7F800000
    return tl.where(finite, signed, bits).to(tl.float32, bitcast=True).to(tl.float16)


@triton.jit(do_not_specialize=["tensors", "programs"])
def total(partial, first_programs, sums, tensors, programs, BLOCK: tl.constexpr):
    """Adds up, for one tensor and statistic, what its programs have found, in an order that never changes."""
    tensor, statistic = tl.program_id(0), tl.program_id(1)
    first = tl.load(first_programs + tensor)
    last = tl.load(first_programs + tensor + 1)
    found = tl.zeros((BLOCK,), tl.float64)
    row = partial + statistic.to(tl.int64) * programs
    while first < last:
        lanes = first + tl.arange(0, BLOCK)
        found += tl.load(row + lanes, mask=lanes < last, other=0.0)
        first += BLOCK
    tl.store(sums + statistic * tensors + tensor, tl.sum(found, axis=0))
