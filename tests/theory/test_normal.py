"""The expected product of two signs: scipy's bivariate normal, exact cases, symmetries and Monte Carlo."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from varigrad.theory import expected_sign_product

from .monte_carlo import assert_mean

MEANS = [-7.0, -2.0, -0.5, -1e-3, 0.0, 1e-3, 0.5, 2.0, 7.0]
CORRELATIONS = [-0.999999, -0.99, -0.7, -0.1, 0.0, 0.1, 0.7, 0.99, 0.999999]


def sign(h):
    """E[sign x] for x ~ N(h, 1)."""
    return 2 * stats.norm.cdf(h) - 1


@pytest.mark.parametrize("r", CORRELATIONS)
def test_against_scipy(r):
    pair = stats.multivariate_normal(cov=[[1, r], [r, 1]], abseps=1e-14, releps=1e-14)
    for h in MEANS:
        for k in MEANS:
            expected = 4 * pair.cdf([h, k]) - 2 * stats.norm.cdf(h) - 2 * stats.norm.cdf(k) + 1
            assert expected_sign_product(h, k, r) == pytest.approx(expected, abs=5e-14)


def test_by_monte_carlo():
    h, k, r = (
        torch.tensor([0.3, -1.0, 1.5, -0.2]),
        torch.tensor([0.8, 0.4, 1.4, -0.1]),
        torch.tensor([0.6, -0.9, 0.95, 0]),
    )
    x, z = np.random.default_rng(5).normal(size=(2, 400_000, 4))
    y = r.numpy() * x + np.sqrt(1 - r.numpy() ** 2) * z
    assert_mean(np.sign(h.numpy() + x) * np.sign(k.numpy() + y), expected_sign_product(h, k, r))


@pytest.mark.parametrize("r", [-1.0, -0.5, 0.0, 0.3, 1.0])
def test_zero_means_give_the_arcsine_law(r):
    assert expected_sign_product(0.0, 0.0, r) == pytest.approx(2 / math.pi * math.asin(r), abs=1e-15)
    assert expected_sign_product(-0.0, 0.0, r) == expected_sign_product(0.0, 0.0, r)
    # approached from any side
    for h, k in ((1e-9, 1e-9), (-1e-9, 1e-9), (0.0, 1e-9), (-1e-9, 0.0)):
        if abs(r) < 1:
            assert expected_sign_product(h, k, r) == pytest.approx(2 / math.pi * math.asin(r), abs=1e-8)


@pytest.mark.parametrize("h", MEANS)
@pytest.mark.parametrize("k", MEANS)
def test_independent_and_identical_variables(h, k):
    assert expected_sign_product(h, k, 0.0) == pytest.approx(sign(h) * sign(k), abs=1e-15)
    # r = 1: both signs of one variable, which differ where it lies between -h and -k
    assert expected_sign_product(h, k, 1.0) == pytest.approx(1 - abs(sign(h) - sign(k)), abs=1e-15)
    assert expected_sign_product(h, k, -1.0) == pytest.approx(abs(sign(h) + sign(k)) - 1, abs=1e-15)


def test_certain_signs():
    for r in (-1.0, -0.3, 0.0, 0.8, 1.0):
        for far in (math.inf, 1e300, 41.0):
            assert expected_sign_product(far, far, r) == 1.0
            assert expected_sign_product(-far, far, r) == -1.0
            assert expected_sign_product(far, 0.7, r) == pytest.approx(sign(0.7), abs=1e-15)
            assert expected_sign_product(0.7, -far, r) == pytest.approx(-sign(0.7), abs=1e-15)
            assert expected_sign_product(far, 0.0, r) == pytest.approx(0.0, abs=1e-15)


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(-1, 1))
def test_symmetries_and_bounds(h, k, r):
    product = expected_sign_product(h, k, r)
    assert expected_sign_product(k, h, r) == pytest.approx(product, abs=1e-12)
    assert expected_sign_product(-h, -k, r) == pytest.approx(product, abs=1e-12)
    assert expected_sign_product(-h, k, -r) == pytest.approx(-product, abs=1e-12)
    assert -1 <= product <= 1
    # between the two most extreme couplings, and rising with the correlation
    highest, lowest = 1 - abs(sign(h) - sign(k)), abs(sign(h) + sign(k)) - 1
    assert lowest - 1e-12 <= product <= highest + 1e-12
    assert expected_sign_product(h, k, (1 + r) / 2) >= product - 1e-12
