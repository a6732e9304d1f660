"""Expected improvements on stochastic quadratic problems: against simulated steps, the bound and the limits."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize

from varigrad.theory import (
    ExpectedImprovement,
    StochasticQuadratic,
    ill_conditioned_spectrum,
    mildly_conditioned_spectrum,
    p_diag,
    random_rotation,
    sgd_improvement,
    sign_success_probability,
    ssd_improvement,
    ssd_improvement_bound,
)

from .monte_carlo import assert_mean

CASES = [(d, rotated, noise) for d in (2, 5, 20) for rotated in (False, True) for noise in (0.3, 2.0)]


def draw(dimension, rotated, noise, spectrum=mildly_conditioned_spectrum):
    source = torch.Generator().manual_seed(dimension)
    rotation = random_rotation(dimension, source) if rotated else None
    problem = StochasticQuadratic.from_spectrum(spectrum(dimension, source), noise, rotation)
    return problem, torch.randn(dimension, dtype=torch.float64, generator=source)


@pytest.mark.parametrize(("dimension", "rotated", "noise"), CASES)
@pytest.mark.parametrize("improvement", [sgd_improvement, ssd_improvement])
def test_against_simulated_steps(improvement, dimension, rotated, noise):
    """Both moments of the direction, and the decrease itself at the best step size and at three times that."""
    problem, theta = draw(dimension, rotated, noise)
    predicted = improvement(problem, theta)
    gradients = problem.sample_gradients(theta, 100_000, torch.Generator().manual_seed(0))
    direction = -gradients if improvement is sgd_improvement else -gradients.sign()
    slope = -direction @ problem.gradient(theta)
    curvature = (direction @ problem.curvature * direction).sum(dim=1)
    assert_mean(slope, predicted.slope)
    assert_mean(curvature, predicted.curvature)
    for step_size in (predicted.step_size, 3 * predicted.step_size):
        moved = theta + step_size * direction
        loss = (moved @ problem.curvature * moved).sum(dim=1) / 2 + noise**2 * problem.curvature.trace() / 2
        assert_mean(problem.loss(theta) - loss, predicted.at(step_size))
    assert predicted.best == pytest.approx(predicted.at(predicted.step_size), rel=1e-14, abs=0)


@pytest.mark.parametrize("spectrum", [mildly_conditioned_spectrum, ill_conditioned_spectrum])
def test_sgd_is_the_printed_equation(spectrum):
    problem, theta = draw(30, True, 0.5, spectrum)
    gradient, eigenvalues = problem.gradient(theta).numpy(), np.linalg.eigvalsh(problem.curvature.numpy())
    denominator = gradient @ problem.curvature.numpy() @ gradient + 0.25 * (eigenvalues**3).sum()
    improvement = sgd_improvement(problem, theta)
    assert improvement.best == pytest.approx(0.5 * (gradient @ gradient) ** 2 / denominator, rel=1e-12, abs=0)
    assert improvement.step_size == pytest.approx(gradient @ gradient / denominator, rel=1e-12, abs=0)


@pytest.mark.parametrize("spectrum", [mildly_conditioned_spectrum, ill_conditioned_spectrum])
def test_bound_is_the_printed_equation(spectrum):
    problem, theta = draw(30, True, 0.5, spectrum)
    gradient = problem.gradient(theta)
    certainty = 2 * sign_success_probability(gradient, problem.gradient_std) - 1
    slope, trace = (certainty * gradient.abs()).sum().item(), np.linalg.eigvalsh(problem.curvature.numpy()).sum()
    expected = 0.5 * slope**2 / trace * p_diag(problem.curvature)
    assert ssd_improvement_bound(problem, theta).best == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("noise", [0.0, 0.1, 4.0])
@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("spectrum", [mildly_conditioned_spectrum, ill_conditioned_spectrum])
def test_the_paper_s_twelve_problems(spectrum, rotated, noise):
    """d = 100: the bound holds, far from tight with rotated axes, and exact with aligned ones."""
    problem, theta = draw(100, rotated, noise, spectrum)
    exact, bound = ssd_improvement(problem, theta), ssd_improvement_bound(problem, theta)
    assert 0 < bound.slope == pytest.approx(exact.slope, rel=1e-12, abs=0)
    for step_size in (0.1 * bound.step_size, bound.step_size, exact.step_size, 10 * exact.step_size):
        assert bound.at(step_size) <= exact.at(step_size) + 1e-12 * exact.best
    if rotated:
        assert bound.best < 0.9 * exact.best
    else:
        assert bound.best == pytest.approx(exact.best, rel=1e-12, abs=0)


def test_where_the_sign_wins():
    """Noise, an ill-conditioned spectrum and aligned axes, once the steep directions are down; without noise, SGD."""
    eigenvalues = ill_conditioned_spectrum(100, torch.Generator().manual_seed(0))
    theta = torch.where(eigenvalues < 30, torch.randn(100, generator=torch.Generator().manual_seed(1)), 0.0)
    noisy, quiet = (StochasticQuadratic.from_spectrum(eigenvalues, noise) for noise in (4.0, 0.0))
    assert ssd_improvement(noisy, theta).best > 10 * sgd_improvement(noisy, theta).best
    assert ssd_improvement(quiet, theta).best < sgd_improvement(quiet, theta).best


def test_small_noise_approaches_none():
    problem, theta = draw(5, True, 1e-9)
    quiet = StochasticQuadratic(problem.curvature, 0.0)
    for improvement in (sgd_improvement, ssd_improvement, ssd_improvement_bound):
        assert improvement(problem, theta).best == pytest.approx(improvement(quiet, theta).best, rel=1e-12, abs=0)
    signs = problem.gradient(theta).sign()
    assert ssd_improvement(quiet, theta).curvature == pytest.approx((signs @ problem.curvature @ signs).item())
    barely = StochasticQuadratic(problem.curvature, 5e-324)
    assert ssd_improvement(barely, theta) == ssd_improvement(quiet, theta)
    flat = StochasticQuadratic(torch.diag(torch.tensor([0.125, 0.25])), 5e-324)
    assert ssd_improvement(flat, torch.tensor([1.0, 0.0])) == ExpectedImprovement(slope=0.125, curvature=0.375)


def test_a_coordinate_without_gradient_does_not_move_without_noise():
    quiet = StochasticQuadratic(torch.diag(torch.tensor([1.0, 2.0])), 0.0)
    assert ssd_improvement(quiet, torch.tensor([3.0, 0.0])) == ExpectedImprovement(slope=3.0, curvature=1.0)


@pytest.mark.parametrize("improvement", [sgd_improvement, ssd_improvement, ssd_improvement_bound])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_nothing_to_gain_at_the_minimum(improvement, noise):
    problem, _ = draw(3, True, noise)
    at_minimum = improvement(problem, torch.zeros(3))
    assert (at_minimum.slope, at_minimum.step_size, at_minimum.best) == (0.0, 0.0, 0.0)
    if noise:
        assert at_minimum.at(0.1) < 0


def test_nearly_singular_curvature():
    """One dominant eigenvector: all gradients are nearly one variable, and so are their signs."""
    v = torch.tensor([0.6, 0.8], dtype=torch.float64)
    problem = StochasticQuadratic(torch.outer(v, v) + 1e-9 * torch.eye(2), 1.0)
    improvement = ssd_improvement(problem, torch.tensor([1.0, 0.5]))
    assert improvement.curvature == pytest.approx(1.4**2, rel=1e-4, abs=0)


def test_best_step_size_is_the_best():
    improvement = ExpectedImprovement(slope=0.7, curvature=2.3)
    found = optimize.minimize_scalar(lambda step_size: -improvement.at(step_size))
    assert improvement.step_size == pytest.approx(found.x, rel=1e-6, abs=0)
    assert improvement.best == pytest.approx(-found.fun, rel=1e-10, abs=0)
    assert improvement.at(0.0) == 0.0
    assert improvement.at(2 * improvement.step_size) == pytest.approx(0.0, abs=1e-15)


def test_bad_input():
    for step_size in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"^step_size = "):
            ExpectedImprovement(1.0, 1.0).at(step_size)
    problem, _ = draw(3, True, 1.0)
    for improvement in (sgd_improvement, ssd_improvement, ssd_improvement_bound):
        with pytest.raises(ValueError, match=r"^theta has shape"):
            improvement(problem, torch.ones(2))
