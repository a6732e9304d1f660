"""Stochastic quadratic problems, their spectra and axes, and the share of the diagonal."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from varigrad.theory import (
    StochasticQuadratic,
    ill_conditioned_spectrum,
    mildly_conditioned_spectrum,
    p_diag,
    random_rotation,
)

from .monte_carlo import assert_mean


def generator(seed):
    return torch.Generator().manual_seed(seed)


def problem(dimension=4, noise=0.7, seed=0):
    return StochasticQuadratic.from_spectrum(
        mildly_conditioned_spectrum(dimension, generator(seed)), noise, random_rotation(dimension, generator(seed + 1))
    )


def test_loss_is_the_mean_over_the_data():
    sqp, theta = problem(), np.array([1.0, -2.0, 0.5, 3.0])
    offsets = theta - np.random.default_rng(6).normal(0, 0.7, size=(200_000, 4))
    assert_mean(np.einsum("ni,ij,nj->n", offsets, sqp.curvature.numpy(), offsets) / 2, sqp.loss(torch.tensor(theta)))


def test_gradient_is_the_derivative_of_the_loss():
    sqp = problem()
    theta = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(sqp.loss(theta), theta)
    torch.testing.assert_close(sqp.gradient(theta.detach()), slope)


def test_samples_have_the_stated_moments():
    sqp, theta = problem(), torch.tensor([1.0, -2.0, 0.5, 3.0])
    samples = sqp.sample_gradients(theta, 200_000, generator(7)).numpy()
    mean = sqp.gradient(theta).numpy()
    assert_mean(samples, mean)
    centred = samples - mean
    assert_mean(centred[:, :, None] * centred[:, None, :], sqp.gradient_covariance)
    torch.testing.assert_close(sqp.gradient_std, sqp.gradient_covariance.diagonal().sqrt())
    quiet = StochasticQuadratic(sqp.curvature, 0.0)
    assert (quiet.sample_gradients(theta, 3, generator(7)) == quiet.gradient(theta)).all()


def test_spectrum_and_axes_are_those_asked_for():
    eigenvalues, rotation = torch.tensor([3.0, 1.0, 0.5]), random_rotation(3, generator(8))
    curvature = StochasticQuadratic.from_spectrum(eigenvalues, 1.0, rotation).curvature
    torch.testing.assert_close(curvature @ rotation, rotation * eigenvalues)
    aligned = StochasticQuadratic.from_spectrum(eigenvalues, 1.0).curvature
    torch.testing.assert_close(aligned, torch.diag(eigenvalues).double())


def test_the_problem_does_not_change_with_what_it_was_made_from():
    curvature = torch.eye(2, dtype=torch.float64)
    sqp = StochasticQuadratic(curvature, 1.0)
    curvature[0, 0] = 5.0
    assert sqp.curvature[0, 0] == 1.0
    assert sqp.dimension == 2


def test_spectra():
    mild = mildly_conditioned_spectrum(20_000, generator(9)).numpy()
    assert 0.1 <= mild.min() < 0.101
    assert 1.099 < mild.max() <= 1.1
    assert_mean(mild, 0.6)
    ill = ill_conditioned_spectrum(100_000, generator(10)).numpy()
    small, large = ill[:90_000], ill[90_000:]
    assert 0 < small.min() < 0.001
    assert 0.999 < small.max() <= 1
    assert 30 <= large.min() < 30.1
    assert 59.9 < large.max() <= 60
    assert_mean(small, 0.5)
    assert_mean(large, 45.0)


@pytest.mark.parametrize(("dimension", "large"), [(1, 1), (9, 1), (10, 1), (11, 2), (100, 10)])
def test_a_tenth_of_the_spectrum_is_large(dimension, large):
    eigenvalues = ill_conditioned_spectrum(dimension, generator(11))
    assert eigenvalues.shape == (dimension,)
    assert int((eigenvalues >= 30).sum()) == large


def test_rotations_are_uniform():
    """Moments of the uniform distribution on SO(3), and det = 1: a missing sign correction biases the diagonal."""
    source = generator(12)
    rotations = np.stack([random_rotation(3, source).numpy() for _ in range(1000)])
    np.testing.assert_allclose(rotations @ rotations.mT, np.broadcast_to(np.eye(3), (1000, 3, 3)), atol=1e-14)
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0, rtol=1e-14)
    assert_mean(rotations, 0.0)
    assert_mean(rotations**2, 1 / 3)
    assert_mean(rotations**4, 1 / 5)
    trace = np.trace(rotations, axis1=1, axis2=2)
    assert_mean(trace, 0.0)
    assert_mean(trace**2, 1.0)


def test_draws_are_reproducible_and_differ():
    for draw in (mildly_conditioned_spectrum, ill_conditioned_spectrum, random_rotation):
        source = generator(13)
        first = draw(5, source)
        assert (draw(5, generator(13)) == first).all()
        assert (draw(5, source) != first).any()


def test_p_diag_of_known_matrices():
    assert p_diag(torch.diag(torch.tensor([3.0, -1.0]))) == 1.0
    assert p_diag(torch.ones(8, 8)) == 1 / 8
    assert p_diag(torch.tensor([[1.0, -3.0], [2.0, 4.0]])) == 0.5
    assert p_diag(torch.tensor([[0.0, 1.0], [1.0, 0.0]])) == 0.0


@pytest.mark.parametrize(
    ("spectrum", "expected", "half_a_digit"),
    [(mildly_conditioned_spectrum, 0.210, 5e-4), (ill_conditioned_spectrum, 0.045, 5e-4)],
)
def test_p_diag_of_random_orientations(spectrum, expected, half_a_digit):
    """The documented averages at d = 100, far from π/(2d) = 0.0157."""
    source = generator(14)
    values = np.array(
        [p_diag((R * spectrum(100, source)) @ R.T) for R in (random_rotation(100, source) for _ in range(40))]
    )
    assert abs(values.mean() - expected) <= 5 * values.std(ddof=1) / math.sqrt(40) + half_a_digit


def test_p_diag_of_random_rank_one_matrices():
    """The one case of π/(2d): 0.0157 at d = 100, where Σ|v_i v_j| = (Σ|v_i|)²."""
    vectors = np.random.default_rng(15).normal(size=(3000, 100))
    values = np.array([p_diag(torch.outer(v, v)) for v in torch.tensor(vectors)])
    np.testing.assert_allclose(values, (vectors**2).sum(axis=1) / np.abs(vectors).sum(axis=1) ** 2, rtol=1e-12)
    assert_mean(values, 0.015663)  # by 200,000 such matrices
    assert values.mean() == pytest.approx(math.pi / 200, rel=0.01, abs=0)


@given(st.integers(1, 8), st.integers(0, 2**31), st.integers(-60, 60))
def test_p_diag_of_a_positive_definite_matrix_is_at_least_one_over_d(dimension, seed, exponent):
    factor = torch.randn(dimension, dimension, dtype=torch.float64, generator=generator(seed))
    matrix = factor @ factor.T
    share = p_diag(matrix)
    assert 1 / dimension - 1e-12 <= share <= 1
    assert p_diag(2.0**exponent * matrix) == pytest.approx(share, rel=1e-14, abs=0)


@pytest.mark.parametrize("matrix", [torch.zeros(2, 2), torch.ones(2, 3), torch.ones(3), torch.zeros(0, 0)], ids=str)
def test_p_diag_refuses(matrix):
    with pytest.raises(ValueError, match=r"^matrix .*not accepted"):
        p_diag(matrix)
    with pytest.raises(ValueError, match=r"^matrix has the entry nan"):
        p_diag(torch.full((2, 2), math.nan))


@pytest.mark.parametrize(
    ("curvature", "message"),
    [
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "eigenvalue -1"),
        (torch.diag(torch.tensor([1.0, 0.0])), "eigenvalue 0"),
        (torch.ones(2, 3), "shape"),
        (torch.ones(2), "shape"),
        (torch.full((2, 2), math.inf), "entry inf"),
    ],
)
def test_problem_refuses_curvature(curvature, message):
    with pytest.raises(ValueError, match=f"^curvature .*{message}.*not accepted"):
        StochasticQuadratic(curvature, 1.0)


def test_problem_refuses_other_arguments():
    eye = torch.eye(2)
    for noise in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"^noise = "):
            StochasticQuadratic(eye, noise)
    with pytest.raises(ValueError, match=r"^noise has shape \(2,\)"):
        StochasticQuadratic(eye, torch.ones(2))
    sqp = StochasticQuadratic(eye, 1.0)
    for method in (sqp.loss, sqp.gradient, lambda theta: sqp.sample_gradients(theta, 1)):
        with pytest.raises(ValueError, match=r"^theta has shape \(3,\)"):
            method(torch.ones(3))
        with pytest.raises(ValueError, match=r"^theta has the entry nan"):
            method(torch.tensor([0.0, math.nan]))
    with pytest.raises(ValueError, match=r"^count = 0"):
        sqp.sample_gradients(torch.ones(2), 0)


def test_from_spectrum_refuses():
    with pytest.raises(ValueError, match=r"^eigenvalues has the entry 0"):
        StochasticQuadratic.from_spectrum(torch.tensor([1.0, 0.0]), 1.0)
    for eigenvalues in (torch.ones(2, 2), torch.ones(0), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"^eigenvalues has shape"):
            StochasticQuadratic.from_spectrum(eigenvalues, 1.0)
    with pytest.raises(ValueError, match=r"^rotation has shape \(3, 3\)"):
        StochasticQuadratic.from_spectrum(torch.ones(2), 1.0, torch.eye(3))
    with pytest.raises(ValueError, match=r"^rotation misses .*orthogonal"):
        StochasticQuadratic.from_spectrum(torch.ones(2), 1.0, torch.tensor([[1.0, 0.1], [0.0, 1.0]]))


@pytest.mark.parametrize("draw", [mildly_conditioned_spectrum, ill_conditioned_spectrum, random_rotation])
def test_draws_refuse(draw):
    with pytest.raises(ValueError, match=r"^dimension = 0"):
        draw(0)
    with pytest.raises(TypeError, match=r"^dimension = 2\.0"):
        draw(2.0)
