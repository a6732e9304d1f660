"""Stochastic rounding: right in expectation, to the neighbours only, by random numbers that depend on nothing else."""

import itertools

import numpy as np
import pytest
import torch

from varigrad.engine.rounding import LOW_PRECISION, random_bits, stochastic

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


# The parameter, and four arrays of state: the first three share a random word.
LANES = range(5)


def drawn(step, lane, count):
    return random_bits(step, lane, torch.Size([count]), 0, CPU)


def is_uniform(values):
    """Chi-square over 256 values; five standard deviations."""
    counts = np.bincount(values, minlength=256)
    expected = len(values) / 256
    return abs(((counts - expected) ** 2 / expected).sum() - 255) < 5 * np.sqrt(2 * 255)


@pytest.mark.parametrize("lane", LANES)
def test_bits_are_uniform(lane):
    bits = drawn(7, lane, 2**20).numpy()
    assert bits.min() >= 0
    assert bits.max() < 2**16
    assert is_uniform(bits >> 8)
    assert is_uniform(bits & 255)


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(LANES, 2)), ids=str)
def test_bits_of_any_two_arrays_are_independent(one, other):
    """Their upper and their lower four bits, in all combinations, are as many as chance makes them."""
    first, second = drawn(7, one, 2**20).numpy(), drawn(7, other, 2**20).numpy()
    for mine in (first >> 12, first & 15):
        for theirs in (second >> 12, second & 15):
            assert is_uniform(16 * mine + theirs)


@pytest.mark.parametrize(("one", "other"), [((1, 0), (2, 0)), ((1, 0), (65537, 0)), ((1, 2), (2, 1))], ids=str)
def test_bits_of_different_steps_are_uncorrelated(one, other):
    count = 2**18
    first, second = (drawn(*numbers, count).double() for numbers in (one, other))
    correlation = torch.corrcoef(torch.stack([first, second]))[0, 1]
    assert abs(correlation) < 5 / count**0.5


@pytest.mark.parametrize("lane", LANES)
def test_bits_of_neighbours_are_uncorrelated(lane):
    count = 2**18
    bits = drawn(3, lane, count).double()
    for lag in (1, 2, 3, 64, 256):
        correlation = torch.corrcoef(torch.stack([bits[:-lag], bits[lag:]]))[0, 1]
        assert abs(correlation) < 5 / (count - lag) ** 0.5


def test_a_part_has_the_bits_of_the_whole():
    whole = random_bits(5, 1, torch.Size([7, 3]), 0, CPU)
    assert torch.equal(random_bits(5, 1, torch.Size([2, 3]), 12, CPU), whole[4:6])


def test_a_step_on_the_device_has_the_bits_of_one_on_the_host():
    here = random_bits(12, 3, torch.Size([50]), 0, CPU)
    assert torch.equal(random_bits(torch.tensor(12), 3, torch.Size([50]), 0, CPU), here)
