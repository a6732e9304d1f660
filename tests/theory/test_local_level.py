"""The best gain for a random walk in noise: against the Riccati equation, simulation and its limits."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg

from varigrad.theory import local_level_gain

from .monte_carlo import assert_mean

PAIRS = [(1.0, 2.0), (1e-4, 1.0), (3.0, 0.01), (1e-10, 1e-10), (1e8, 1e12)]


@pytest.mark.parametrize(("q", "r"), PAIRS)
def test_steady_state_of_the_kalman_filter(q, r):
    predicted = r
    for _ in range(20_000):
        predicted = predicted * r / (predicted + r) + q
    assert local_level_gain(q, r) == pytest.approx(predicted / (predicted + r), rel=1e-12, abs=0)


def test_against_scipy_s_riccati_solver():
    predicted = linalg.solve_discrete_are([[1.0]], [[1.0]], [[0.3]], [[2.0]])[0, 0]
    assert local_level_gain(0.3, 2.0) == pytest.approx(predicted / (predicted + 2.0), rel=1e-12, abs=0)


def test_no_digits_are_lost():
    """(√(q² + 4qr) - q)/(2r) with 60 digits, also where it cancels."""
    for q, r in (("1", "1e-14"), ("1e-14", "1"), ("1e-100", "1e100"), ("7", "3")):
        with localcontext() as context:
            context.prec = 60
            q_, r_ = Decimal(q), Decimal(r)
            expected = ((q_**2 + 4 * q_ * r_).sqrt() - q_) / (2 * r_)
        assert local_level_gain(float(q), float(r)) == pytest.approx(float(expected), rel=1e-14, abs=0)


def test_best_and_white_in_simulation():
    """The error is least at this gain, the innovations uncorrelated; gains half and twice as large are worse."""
    q, r, random = 0.05, 1.0, np.random.default_rng(18)
    best = local_level_gain(q, r)
    gains = np.array([best, best / 2, best * 2])
    level, mean, innovation = np.zeros((50_000, 1)), np.zeros((50_000, 3)), np.zeros((50_000, 3))
    for _ in range(150):
        level = level + random.normal(0, math.sqrt(q), size=level.shape)
        before, innovation = innovation, level + random.normal(0, math.sqrt(r), size=level.shape) - mean
        mean = mean + gains * innovation
    assert_mean((before * innovation)[:, 0], 0.0)
    assert ((before * innovation).mean(axis=0)[1:] * [1, -1] > 0.05).all()
    error = (mean - level) ** 2
    assert_mean(error[:, 0], best * r)
    assert (error.mean(axis=0)[1:] > 1.1 * best * r).all()


@given(st.floats(1e-200, 1e200), st.floats(1e-200, 1e200), st.integers(-50, 50))
def test_only_the_ratio_matters_and_the_gain_is_a_fraction(q, r, exponent):
    gain = local_level_gain(q, r)
    assert 0 < gain <= 1
    assert local_level_gain(4.0**exponent * q, 4.0**exponent * r) == pytest.approx(gain, rel=1e-14, abs=0)
    assert local_level_gain(2 * q, r) >= gain * (1 - 1e-15)


def test_limits():
    assert local_level_gain(0.0, 1.0) == 0.0
    assert local_level_gain(1.0, 0.0) == 1.0
    assert local_level_gain(1e-20, 1.0) == pytest.approx(1e-10, rel=1e-9, abs=0)  # √(q/r)


def test_nothing_to_filter():
    with pytest.raises(ValueError, match=r"^drift_variance = 0 .* observation_variance = 0"):
        local_level_gain(0.0, 0.0)
    with pytest.raises(ValueError, match=r"^drift_variance = 0"):
        local_level_gain(torch.tensor([1.0, 0.0]), 0.0)
