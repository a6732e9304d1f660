"""Moving averages and mini-batches: against direct sums, exact fractions and Monte Carlo."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from varigrad.theory import (
    mean_variance_coefficient,
    minibatch_gradient_variance,
    moving_average_variance,
    moving_average_weights,
)

from .monte_carlo import assert_mean

BETAS = [0.1, 0.5, 0.9, 0.999]
STEPS = [1, 2, 3, 10, 100]


def exact_variance(beta, step):
    """Σ c² in rational arithmetic, from the definition of the weights."""
    weights = [Fraction(beta) ** age for age in range(step)]
    return sum(weight**2 for weight in weights) / sum(weights) ** 2


@pytest.mark.parametrize("beta", [0.0, *BETAS])
@pytest.mark.parametrize("step", STEPS)
def test_weights_are_those_of_the_recursion(beta, step):
    average = np.zeros(step)  # the coefficient of every gradient in m
    for gradient in np.eye(step):
        average = beta * average + (1 - beta) * gradient
    np.testing.assert_allclose(moving_average_weights(beta, step), average / (1 - beta**step), rtol=1e-11)


@pytest.mark.parametrize("beta", [*BETAS, 1 - 1e-11])
@pytest.mark.parametrize("step", STEPS)
def test_variance_is_the_sum_of_squared_weights(beta, step):
    exact = exact_variance(beta, step)
    assert moving_average_variance(beta, step) == pytest.approx(float(exact), rel=1e-14, abs=0)
    assert moving_average_weights(beta, step).square().sum().item() == pytest.approx(float(exact), rel=1e-12, abs=0)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("step", STEPS[1:])
def test_coefficient_is_rho_over_one_minus_rho(beta, step):
    exact = exact_variance(beta, step)
    assert mean_variance_coefficient(beta, step) == pytest.approx(float(exact / (1 - exact)), rel=1e-13, abs=0)


def test_first_step_is_one_gradient():
    for beta in (0.0, *BETAS, 1 - 2.0**-53):
        assert moving_average_variance(beta, 1) == 1.0
        assert mean_variance_coefficient(beta, 1) == math.inf


def test_without_memory_every_step_is_the_first():
    steps = torch.tensor([1.0, 2.0, 1e6, math.inf])
    assert (moving_average_variance(0.0, steps) == 1).all()
    assert (mean_variance_coefficient(0.0, steps) == math.inf).all()


@pytest.mark.parametrize("beta", BETAS)
def test_limits(beta):
    for step in (math.inf, 1e9):
        assert moving_average_variance(beta, step) == pytest.approx((1 - beta) / (1 + beta), rel=1e-14, abs=0)
        assert mean_variance_coefficient(beta, step) == pytest.approx((1 - beta) / (2 * beta), rel=1e-14, abs=0)
    assert moving_average_variance(beta) == moving_average_variance(beta, math.inf)
    assert mean_variance_coefficient(beta) == mean_variance_coefficient(beta, math.inf)


def test_an_average_that_forgets_nothing_is_an_arithmetic_mean():
    """β → 1 at step k: ρ → 1/k and c → 1/(k-1), Bessel's correction."""
    beta = 1 - 2.0**-53
    for step in (2, 7, 1000):
        assert moving_average_variance(beta, step) == pytest.approx(1 / step, rel=1e-10, abs=0)
        assert mean_variance_coefficient(beta, step) == pytest.approx(1 / (step - 1), rel=1e-10, abs=0)


@given(st.floats(0, 1 - 1e-12), st.integers(1, 10**6))
def test_variance_falls_towards_its_limit(beta, step):
    now, later, limit = (moving_average_variance(beta, k) for k in (step, step + 1, math.inf))
    assert limit * (1 - 1e-14) <= later <= now * (1 + 1e-14) <= 1 + 1e-14


def test_moments_of_moving_averages_by_monte_carlo():
    """E[m²] = mean² + ρ σ²; (v - m²)/(1-ρ) is an unbiased σ², and c (v - m²) an unbiased var[m]."""
    gradients = np.random.default_rng(2).normal(0.7, 2.0, size=(200_000, 5))
    weights = moving_average_weights(0.9, 5).numpy()
    m, v = gradients @ weights, gradients**2 @ weights
    rho = moving_average_variance(0.9, 5)
    assert_mean(m**2, 0.49 + 4 * rho)
    assert_mean((v - m**2) / (1 - rho), 4.0)
    assert_mean((v - m**2) * mean_variance_coefficient(0.9, 5) - (m - 0.7) ** 2, 0.0)


def test_minibatch_variance_is_unbiased_where_the_printed_form_is_not():
    samples = np.random.default_rng(3).normal(0.7, 2.0, size=(4, 400_000))
    estimate = minibatch_gradient_variance(torch.tensor(samples)).numpy()
    assert_mean(estimate, 4.0 / 4)
    mean = samples.mean(axis=0)
    printed = ((samples**2).sum(axis=0) / 3 - mean**2) / 4
    np.testing.assert_allclose(printed - estimate, mean**2 / 12, rtol=1e-9, atol=1e-12)
    assert printed.mean() == pytest.approx(1 + (0.49 + 1) / 12, abs=0.01)


def test_minibatch_variance_does_not_cancel_and_keeps_the_shape():
    samples = 1e8 + torch.arange(6, dtype=torch.float64).reshape(3, 1, 2)
    torch.testing.assert_close(minibatch_gradient_variance(samples), torch.full((1, 2), 4 / 3, dtype=torch.float64))


def test_sum_of_minibatch_variances_is_an_average_times_rho():
    """Σ c² s_k is ρ times the average of the s_k whose decay is β² (Eq. 66 and 67)."""
    variances = np.random.default_rng(4).gamma(2.0, size=50)
    average, beta = 0.0, 0.9
    for variance in variances:
        average = beta**2 * average + (1 - beta**2) * variance
    average /= 1 - beta**100
    direct = moving_average_weights(beta, 50).numpy() ** 2 @ variances
    assert moving_average_variance(beta, 50) * average == pytest.approx(direct, rel=1e-12, abs=0)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (1, 3)])
def test_one_sample_has_no_variance(shape):
    with pytest.raises(ValueError, match=r"^sample_gradients has shape .*M ≥ 2"):
        minibatch_gradient_variance(torch.zeros(shape))


def test_bad_input():
    with pytest.raises(ValueError, match=r"^sample_gradients has the entry inf"):
        minibatch_gradient_variance(torch.tensor([[0.0], [math.inf]]))
    for step in (0, -1):
        with pytest.raises(ValueError, match=f"^step = {step}"):
            moving_average_weights(0.9, step)
    for step in (1.0, True, "3"):
        with pytest.raises(TypeError, match=r"^step = "):
            moving_average_weights(0.9, step)
    for beta in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"^beta = "):
            moving_average_weights(beta, 3)
    with pytest.raises(ValueError, match=r"^beta has shape \(2,\)"):
        moving_average_weights(torch.tensor([0.5, 0.9]), 3)
