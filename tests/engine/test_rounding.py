"""Stochastic rounding: right in expectation, to the neighbours only, by random numbers that depend on nothing else."""

import numpy as np
import pytest
import torch

from varigrad.engine.rounding import LOW_PRECISION, key, random_bits, stochastic

CPU = torch.device("cpu")
EVERY = torch.arange(2**16)

# Ordinary values, values close above and below a number that is representable, the smallest and the largest.
VALUES = {
    torch.bfloat16: [0.3, -0.3, 1.0 + 2.0**-20, 1.0 - 2.0**-20, 1e-8, -123.456, 3e38, -1e-37, 7.0 / 3.0],
    torch.float16: [0.3, -0.3, 1.0 + 2.0**-20, 1.0 - 2.0**-20, 1e-5, -3e-7, 2.0**-14 - 2.0**-30, 2e-8, 60000.7],
}
CASES = [(dtype, value) for dtype, values in VALUES.items() for value in values]


@pytest.mark.parametrize(("dtype", "value"), CASES)
def test_the_expectation_is_the_value(dtype, value):
    """Exactly: the mean over all random bits that there are."""
    single = torch.tensor(value, dtype=torch.float32)
    rounded = stochastic(single.repeat(2**16), dtype, EVERY).double()
    # Of a number below 2^-14 float16's grid is so coarse that float32 cannot hold the sum with 2^-14 exactly.
    exact = dtype is torch.bfloat16 or abs(value) >= 2.0**-14
    tolerance = 0.0 if exact else 2.0**-37
    assert abs(rounded.mean().item() - single.item()) <= tolerance


@pytest.mark.parametrize(("dtype", "value"), CASES)
def test_only_the_two_neighbours_are_taken(dtype, value):
    single = torch.tensor(value, dtype=torch.float32)
    nearest = single.to(dtype)
    rounded = stochastic(single.repeat(2**16), dtype, EVERY).unique()
    assert nearest in rounded
    below, above = rounded.min(), rounded.max()
    assert below.float() <= single <= above.float()
    spacing = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}[dtype]
    exponent = torch.floor(torch.log2(single.abs().double())).item()
    exponent = max(exponent, -14) if dtype is torch.float16 else exponent
    assert len(rounded) == 2
    assert (above.double() - below.double()).item() == spacing * 2.0**exponent


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_what_can_be_represented_is_left_alone(dtype):
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    wide = patterns.float()
    for bits in (0, 12345, 2**16 - 1):
        rounded = stochastic(wide, dtype, torch.full((2**16,), bits))
        assert torch.equal(rounded.isnan(), patterns.isnan())
        known = ~patterns.isnan()
        assert torch.equal(rounded[known], patterns[known])
        # Minus zero stays minus zero.
        assert torch.equal(rounded[known].signbit(), patterns[known].signbit())


def test_bits_are_uniform():
    """Chi-square over 256 bins, of either half of the 16 bits; five standard deviations."""
    bits = random_bits(key(7, 0), torch.Size([2**20]), 0, CPU).numpy()
    assert bits.min() >= 0
    assert bits.max() < 2**16
    for half in (bits >> 8, bits & 255):
        counts = np.bincount(half, minlength=256)
        expected = len(bits) / 256
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert abs(chi_square - 255) < 5 * np.sqrt(2 * 255)


PAIRS = {
    "steps": (key(1, 0), key(2, 0)),
    "distant steps": (key(1, 0), key(65537, 0)),
    "arrays": (key(1, 0), key(1, 1)),
    "steps and arrays": (key(1, 2), key(2, 1)),
}


@pytest.mark.parametrize(("one", "other"), PAIRS.values(), ids=PAIRS)
def test_bits_of_different_steps_and_arrays_are_uncorrelated(one, other):
    count = 2**18
    first, second = (random_bits(number, torch.Size([count]), 0, CPU).double() for number in (one, other))
    correlation = torch.corrcoef(torch.stack([first, second]))[0, 1]
    assert abs(correlation) < 5 / count**0.5


def test_bits_of_neighbours_are_uncorrelated():
    count = 2**18
    bits = random_bits(key(3, 0), torch.Size([count]), 0, CPU).double()
    for lag in (1, 2, 3, 64, 256):
        correlation = torch.corrcoef(torch.stack([bits[:-lag], bits[lag:]]))[0, 1]
        assert abs(correlation) < 5 / (count - lag) ** 0.5


def test_a_part_has_the_bits_of_the_whole():
    whole = random_bits(key(5, 1), torch.Size([7, 3]), 0, CPU)
    assert torch.equal(random_bits(key(5, 1), torch.Size([2, 3]), 12, CPU), whole[4:6])


def test_a_step_on_the_device_has_the_bits_of_one_on_the_host():
    here = random_bits(key(12, 3), torch.Size([50]), 0, CPU)
    assert torch.equal(random_bits(key(torch.tensor(12), 3), torch.Size([50]), 0, CPU), here)
