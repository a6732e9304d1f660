"""The oracle of SVGD against hand-made numbers, finite differences and the identities of the paper."""

import numpy as np

from tests import reference


def batches(steps=5, m=4, shape=(3,), out=(2,), seed=0):
    generator = np.random.default_rng(seed)
    return [(generator.normal(size=(m, *shape)), generator.normal(size=(m, *out))) for _ in range(steps)]


def test_one_step_by_hand():
    """One sample, one weight: r = (1-rho) g^2, and the step alpha s x sign(g) / sqrt(1-rho) for eps = 0."""
    (W, b) = reference.svgd_mlp([[[2.0]]], [[0.0]], [([[3.0]], [[1.0]])], 0.5, scale=0.1, rho=0.9, eps=0.0)
    assert np.isclose(float(W[1][0][0, 0]), 2 - 0.5 * 0.1 * 3 / np.sqrt(0.1), rtol=1e-15)
    assert float(b[1][0][0]) == -0.5 * 5


def test_without_a_transformation_it_is_gradient_descent():
    """A scale equal to sqrt(eps) makes T the identity as eps grows: the steps are then those of finite differences."""
    W0, b0 = [np.full((3, 3), 0.1), np.full((2, 3), -0.2)], [np.zeros(3), np.zeros(2)]
    data = batches()[:1]
    eps = 1e30
    W, _ = reference.svgd_mlp(W0, b0, data, 1.0, scale=np.sqrt(eps), eps=eps)

    def loss(first):
        x, y = data[0]
        return 0.5 * ((np.tanh(x @ first.T) @ W0[1].T - y) ** 2).sum(1).mean()

    for index in np.ndindex(3, 3):
        step = np.zeros((3, 3))
        step[index] = 1e-5
        slope = (loss(W0[0] + step) - loss(W0[0] - step)) / 2e-5
        assert np.isclose(float((W[0][0] - W[1][0])[index]), slope, rtol=1e-6)


def test_a_convolution_of_single_pixels_is_a_matrix():
    data = batches(shape=(3,), out=(2,))
    images = [(x[:, :, None, None], y[:, :, None, None]) for x, y in data]
    W0, b0 = np.random.default_rng(1).normal(size=(2, 3)), np.array([0.3, -0.1])
    for flags in ({}, {"biases": True}, {"program": True}, {"weight_decay": 0.1}):
        W, b = reference.svgd_mlp([W0], [b0], data, 0.1, **flags)
        K, c = reference.svgd_conv(W0[:, :, None, None], b0, images, 0.1, **flags)
        assert np.allclose(np.array([w[0] for w in W], float), np.array(K, float)[..., 0, 0], rtol=1e-14)
        assert np.allclose(np.array([w[0] for w in b], float), np.array(c, float), rtol=1e-14)


def test_the_authors_program_is_the_paper_with_other_settings():
    """s m and eps m^2 in the paper's form are s and eps of the program."""
    W0, b0 = [np.random.default_rng(1).normal(size=(2, 3))], [np.zeros(2)]
    program, _ = reference.svgd_mlp(W0, b0, batches(m=4), 0.1, program=True)
    paper, _ = reference.svgd_mlp(W0, b0, batches(m=4), 0.1, scale=0.4, eps=16e-6)
    other, _ = reference.svgd_mlp(W0, b0, batches(m=4), 0.1)
    assert np.allclose(np.array(program, float), np.array(paper, float), rtol=1e-15)
    assert not np.allclose(np.array(program, float), np.array(other, float), rtol=1e-2)
