"""VSGD's resting points against the iterated equations, high precision and a simulated stream of gradients."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varigrad.theory import (
    calibrated_observation_variance,
    moving_average_variance,
    vsgd_stationary_variances,
    vsgd_variance_floor,
)

from .monte_carlo import assert_mean


def iterated_floor(gamma, K, delta):
    """Eq. 16 to 21 with zero gradients and ρ = 1, until nothing moves any more."""
    a = gamma + 0.5 + delta
    b_g, b_o = gamma, K * gamma
    sigma2 = 0.0
    for _ in range(100_000):
        before, sigma2 = sigma2, 1 / (a / b_g + a / b_o)
        b_g, b_o = gamma + sigma2 / 2, K * gamma + sigma2 / 2
        if sigma2 == before:
            break
    return sigma2


@pytest.mark.parametrize("gamma", [1e-8, 1e-3, 0.01, 1.0, 1e6])
@pytest.mark.parametrize("K", [0.01, 1.0, 9.0, 30.0])
@pytest.mark.parametrize("delta", [0.0, 5e-5, 2.0])
def test_floor_of_the_iterated_equations(gamma, K, delta):
    assert vsgd_variance_floor(gamma, K, delta) == pytest.approx(iterated_floor(gamma, K, delta), rel=1e-12, abs=0)


def test_floor_as_measured():
    assert vsgd_variance_floor(0.01, 9.0, 0.0) == pytest.approx(0.05694318, abs=5e-9)
    assert math.sqrt(vsgd_variance_floor(1e-8, 30.0, 5e-5)) == pytest.approx(3.3e-4, rel=0.01, abs=0)


@pytest.mark.parametrize(("gamma", "K", "delta"), [("1e-8", "30", "5e-5"), ("0.01", "9", "0"), ("1e3", "1e-6", "10")])
def test_floor_solves_its_equation_to_every_digit(gamma, K, delta):
    with localcontext() as context:
        context.prec = 60
        g, k, a = Decimal(gamma), Decimal(K), Decimal("0.5") + Decimal(gamma) + Decimal(delta)
        linear, quadratic = g * (1 + k) * (a - Decimal("0.5")), a - Decimal("0.25")
        expected = (-linear + (linear**2 + 4 * quadratic * k * g**2).sqrt()) / (2 * quadratic)
    assert vsgd_variance_floor(float(gamma), float(K), float(delta)) == pytest.approx(float(expected), rel=1e-14, abs=0)


def test_floor_limits():
    assert vsgd_variance_floor(1e-12, 30.0, 0.0) == pytest.approx(2e-12 * math.sqrt(30), rel=1e-9, abs=0)
    assert vsgd_variance_floor(1e12, 30.0, 0.0) == pytest.approx(30 / 31, rel=1e-9, abs=0)  # the prior's own variance
    assert vsgd_variance_floor(1e-300, 30.0, 0.0) == pytest.approx(2e-300 * math.sqrt(30), rel=1e-12, abs=0)


@pytest.mark.parametrize("gain", [0.01, 0.1, 0.5, 0.9])
def test_every_gain_is_a_fixed_point_under_its_own_innovations(gain):
    """Eq. 16, 18 and 19 with γ = δ = 0, a = ½, averaged over e² = s²: the variances come back."""
    v_g, v_o = vsgd_stationary_variances(gain, 3.0)
    s2, sigma2 = v_g + v_o, v_g * v_o / (v_g + v_o)
    assert v_g / s2 == pytest.approx(gain, rel=1e-14, abs=0)
    assert sigma2 + gain**2 * s2 == pytest.approx(v_g, rel=1e-14, abs=0)
    assert sigma2 + (1 - gain) ** 2 * s2 == pytest.approx(v_o, rel=1e-14, abs=0)


def test_innovations_have_the_stated_variance():
    """A mean with a constant gain, followed through noise of variance 3 until it has settled."""
    random, gains = np.random.default_rng(16), np.array([0.05, 0.3, 0.8])
    mean = np.zeros((40_000, 3))
    for _ in range(200):
        innovation = random.normal(0, math.sqrt(3.0), size=mean.shape) - mean
        mean += gains * innovation
    expected = [sum(vsgd_stationary_variances(gain, 3.0)) for gain in gains]
    assert_mean(innovation**2, expected)
    assert_mean(mean**2, [3.0 * moving_average_variance(1 - gain) for gain in gains])


def test_calibration_on_a_simulated_stream():
    """Algorithm 1 on a fixed mean: v_o alone misses a quarter of the noise, the calibrated value under 2 %."""
    random, gamma, K, delta, noise = np.random.default_rng(17), 1e-8, 30.0, 5e-5, 1e-2
    a, mu = gamma + 0.5 + delta, np.zeros(2000)
    b_g, b_o, a_before = np.full(2000, gamma), np.full(2000, K * gamma), gamma + delta
    for t in range(1, 2001):
        g = random.normal(0.003, noise, size=2000)
        before, mu = mu, (b_o * mu + b_g * g) / (b_o + b_g)
        sigma2 = 1 / (a_before / b_g + a_before / b_o)
        b_g = (1 - t**-0.81) * b_g + t**-0.81 * (gamma + (sigma2 + (mu - before) ** 2) / 2)
        b_o = (1 - t**-0.9) * b_o + t**-0.9 * (K * gamma + (sigma2 + (mu - g) ** 2) / 2)
        a_before = a
    v_g, v_o = (b_g / a).mean(), (b_o / a).mean()
    gain = (b_g / (b_g + b_o)).mean()
    assert gain == pytest.approx(0.40, abs=0.02)
    assert v_o / noise**2 < 0.8
    assert calibrated_observation_variance(v_g, v_o) / noise**2 == pytest.approx(1.0, abs=0.02)


@given(st.floats(0, 1), st.floats(1e-30, 1e30))
def test_calibration_inverts_the_stationary_variances(gain, variance):
    v_g, v_o = vsgd_stationary_variances(gain, variance)
    assert calibrated_observation_variance(v_g, v_o) == pytest.approx(variance, rel=1e-13, abs=0)
    total = v_g + v_o
    assert calibrated_observation_variance(v_g, v_o) == pytest.approx(total * (1 - v_g / total / 2), rel=1e-13, abs=0)


def test_extreme_gains():
    assert vsgd_stationary_variances(0.0, 3.0) == (0.0, 3.0)
    assert vsgd_stationary_variances(1.0, 3.0) == (6.0, 0.0)
    assert vsgd_stationary_variances(0.5, 0.0) == (0.0, 0.0)
    assert calibrated_observation_variance(0.0, 0.0) == 0.0
