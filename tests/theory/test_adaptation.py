"""Variance adaptation factors: by what they minimise, by Monte Carlo, and in their limits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from varigrad.theory import (
    adam_adaptation_factor,
    moving_average_variance,
    sign_adaptation_factor,
    sign_success_probability,
    svag_adaptation_factor,
)

from .monte_carlo import assert_mean

FACTORS = [sign_adaptation_factor, adam_adaptation_factor, svag_adaptation_factor]
ETAS = [0.05, 0.3, 1.0, 2.0, 10.0, 1e3]


@pytest.mark.parametrize(("mean", "std"), [(0.3, 1.0), (-0.3, 1.0), (1e-12, 1e-13), (-5.0, 1.0), (1.0, 1e6)])
def test_success_probability_is_the_normal_distribution_function(mean, std):
    expected = stats.norm.sf(0, loc=abs(mean), scale=std)
    assert sign_success_probability(mean, std) == pytest.approx(expected, rel=1e-14, abs=0)


def test_success_probability_by_monte_carlo():
    mean, std = np.array([-0.2, 0.5, 1.0, -3.0]), np.array([1.0, 2.0, 1.0, 2.5])
    gradients = np.random.default_rng(0).normal(mean, std, size=(400_000, 4))
    assert_mean(np.sign(gradients) == np.sign(mean), sign_success_probability(torch.tensor(mean), torch.tensor(std)))


def test_success_probability_without_noise_or_without_signal():
    assert sign_success_probability(-1e-300, 0.0) == 1.0
    assert sign_success_probability(0.0, 1.0) == 0.5
    assert sign_success_probability(0.0, 0.0) == 0.5
    assert sign_success_probability(1e300, 1e-300) == 1.0


@pytest.mark.parametrize("eta", ETAS)
def test_sign_factor_is_the_excess_of_success(eta):
    assert sign_adaptation_factor(eta) == pytest.approx(2 * stats.norm.cdf(1 / eta) - 1, rel=1e-12, abs=0)


def test_factors_are_the_best_ones_by_monte_carlo():
    """The factor γ that minimises E[(γ x - y)²] is E[x y]/E[x²]: at the optimum the error has no part along x."""
    mean, std = np.array([-0.5, 1.0, 2.0]), np.array([1.0, 1.0, 0.7])
    gradients = np.random.default_rng(1).normal(mean, std, size=(400_000, 3))
    eta = torch.tensor(std / np.abs(mean))
    signs = np.sign(gradients)
    assert_mean((sign_adaptation_factor(eta).numpy() * signs - np.sign(mean)) * signs, 0.0)
    assert_mean((svag_adaptation_factor(eta).numpy() * gradients - mean) * gradients, 0.0)


@pytest.mark.parametrize("eta", ETAS)
def test_adam_factor_is_what_its_moments_give(eta):
    """m/√v for m = mean and v = mean² + variance, without rounding in the square of η."""
    assert adam_adaptation_factor(eta) == pytest.approx(3.0 / math.sqrt(9.0 + (3.0 * eta) ** 2), rel=1e-14, abs=0)
    assert svag_adaptation_factor(eta) == pytest.approx(adam_adaptation_factor(eta) ** 2, rel=1e-14, abs=0)


def test_momentum_enters_through_the_variance_of_the_average():
    mean, variance, rho = 0.4, 2.0, moving_average_variance(0.9, 5)
    eta = math.sqrt(variance) / mean
    assert svag_adaptation_factor(eta * math.sqrt(rho)) == pytest.approx(
        1 / (1 + rho * variance / mean**2), rel=1e-14, abs=0
    )


@pytest.mark.parametrize("factor", FACTORS)
def test_limits(factor):
    assert factor(0.0) == 1.0
    assert factor(math.inf) == 0.0
    assert factor(1e-300) == 1.0
    assert 0 <= factor(1e200) < 1e-150


def test_large_noise():
    """erf and the root fall as 1/η, a constant √(2/π) apart; SVAG's factor falls as 1/η²."""
    assert sign_adaptation_factor(1e200) == pytest.approx(math.sqrt(2 / math.pi) * 1e-200, rel=1e-12, abs=0)
    assert adam_adaptation_factor(1e200) == pytest.approx(1e-200, rel=1e-12, abs=0)
    assert svag_adaptation_factor(1e100) == pytest.approx(1e-200, rel=1e-12, abs=0)


def test_adam_is_close_to_the_best_sign_factor():
    """By at most 0.065, at η = 1.9, as the documentation says."""
    worst = optimize.minimize_scalar(
        lambda eta: -abs(sign_adaptation_factor(eta) - adam_adaptation_factor(eta)), bounds=(0.8, 5), method="bounded"
    )
    assert worst.x == pytest.approx(1.9, abs=0.05)
    assert -worst.fun == pytest.approx(0.0644, abs=1e-4)
    grid = torch.logspace(-4, 4, 4000)
    assert (sign_adaptation_factor(grid) - adam_adaptation_factor(grid)).abs().max() <= -worst.fun + 1e-12


@given(st.floats(0, 1e300), st.floats(1.0001, 10))
def test_factors_fall_with_noise(eta, larger):
    for factor in FACTORS:
        assert 0 <= factor(eta * larger) <= factor(eta) <= 1


@given(st.floats(-1e100, 1e100), st.floats(1e-50, 1e100), st.integers(-100, 100))
def test_success_depends_on_the_ratio_alone(mean, std, exponent):
    probability = sign_success_probability(mean, std)
    assert 0.5 <= probability <= 1
    assert sign_success_probability(-mean, std) == probability
    if abs(mean) > 1e-200 or mean == 0:
        scale = 2.0**exponent
        assert sign_success_probability(scale * mean, scale * std) == probability
