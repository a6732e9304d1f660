"""The oracle of "Dissecting Adam" against facts found otherwise: first steps, scalings, means, another algorithm."""

import numpy as np
import pytest

from . import adam_star, adamw, minibatch_variance, msgd, mssd, msvag, msvag_minibatch, rho, sgdm, ssd, svag

RANDOM = np.random.default_rng(5)
GRADIENTS = RANDOM.normal(0.2, 1.0, size=(200, 40))
SAMPLES = RANDOM.normal(0.2, 1.0, size=(200, 8, 40))
THETA = np.zeros(40)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999])
def test_first_step(beta):
    """One gradient carries no variance: SGD's step, or its sign; a mini-batch does carry one."""
    theta, sgd = np.ones(40), sgdm(np.ones(40), GRADIENTS[:1], 0.1, momentum=0.0)
    for optimizer in (msvag, svag, msgd):
        np.testing.assert_array_equal(optimizer(theta, GRADIENTS[:1], 0.1, beta=beta), sgd)
    for momentum in (True, False):
        star = adam_star(theta, GRADIENTS[:1], 0.1, beta=beta, momentum=momentum)
        np.testing.assert_array_equal(star, ssd(theta, GRADIENTS[:1], 0.1))
    g, s = SAMPLES[0].mean(axis=0), SAMPLES[0].var(axis=0, ddof=1) / 8
    moved = msvag_minibatch(THETA, SAMPLES[:1], 0.1, beta=beta)[1]
    np.testing.assert_allclose(moved, -0.1 * g**3 / (g**2 + s), rtol=1e-13)


def test_beta_zero_is_sgd_or_its_sign():
    for optimizer in (msvag, svag, msgd):
        np.testing.assert_array_equal(
            optimizer(THETA, GRADIENTS, 0.1, beta=0.0), sgdm(THETA, GRADIENTS, 0.1, momentum=0.0)
        )
    for trajectory in (
        mssd(THETA, GRADIENTS, 0.1, beta=0.0),
        adam_star(THETA, GRADIENTS, 0.1, beta=0.0),
        adam_star(THETA, GRADIENTS, 0.1, beta=0.0, momentum=False),
    ):
        np.testing.assert_array_equal(trajectory, ssd(THETA, GRADIENTS, 0.1))


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9, 0.999])
def test_rho_is_the_sum_of_squared_weights(beta):
    assert rho(beta, 1) == pytest.approx(1, rel=1e-15)
    assert rho(beta, 10**6) == pytest.approx((1 - beta) / (1 + beta), rel=1e-13)
    for k in (2, 3, 10, 100):
        weights = beta ** np.arange(k)
        assert rho(beta, k) == pytest.approx(((weights / weights.sum()) ** 2).sum(), rel=1e-11)


def test_variance_estimate_is_unbiased():
    """E[s] = sigma^2, E[m^2] = mean^2 + rho sigma^2, read off M-SGD's and SVAG's fifth step."""
    gradients = np.random.default_rng(6).normal(0.7, 2.0, size=(5, 100000))
    m, damped = (-np.diff(f(np.zeros(100000), gradients, 1.0)[-2:], axis=0)[0] for f in (msgd, svag))
    m2 = m**2
    s = m2 * (gradients[-1] / damped - 1)
    assert s.mean() == pytest.approx(4.0, rel=0.01)
    assert m2.mean() == pytest.approx(0.49 + float(rho(0.9, 5)) * 4.0, rel=0.01)


@pytest.mark.parametrize("beta", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("noise", [1.0, 1e-2, 1e-4])
def test_msvag_is_weighted_welford(beta, noise):
    """v - m^2 is the weighted sum of squared differences, by a recursion that never subtracts squares."""
    gradients, theta, m, S = 1 + noise * GRADIENTS, THETA.copy(), THETA.copy(), THETA.copy()
    expected, expected_svag, theta_svag = [theta], [theta], theta
    for k, g in enumerate(gradients, start=1):
        w = (1 - beta) / (1 - beta**k)
        d = g - m
        m = m + w * d
        S = (1 - w) * (S + w * d**2)
        c = 0.0 if k == 1 else (1 - beta) * (1 + beta**k) / (2 * beta * (1 - beta ** (k - 1)))
        s = 0.0 if k == 1 else S * (1 + beta) * (1 - beta**k) / (2 * beta * (1 - beta ** (k - 1)))
        theta = theta - 0.1 * m / (1 + c * S / m**2)
        theta_svag = theta_svag - 0.1 * g / (1 + s / m**2)
        expected.append(theta)
        expected_svag.append(theta_svag)
    np.testing.assert_allclose(msvag(THETA, gradients, 0.1, beta=beta), expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(svag(THETA, gradients, 0.1, beta=beta), expected_svag, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("optimizer", [msvag, svag, msgd, adam_star, mssd, ssd, adamw])
def test_scaling_by_powers_of_two_is_exact(optimizer):
    """Signs and ratios do not see the scale of the gradients; the others follow it, bit for bit."""
    scale = np.ldexp(RANDOM.choice([-1.0, 1.0], size=40), RANDOM.integers(-90, 90, size=40))
    keywords = {"eps": 0.0} if optimizer is adamw else {}
    plain, scaled = (optimizer(THETA, gradients, 0.125, **keywords) for gradients in (GRADIENTS, scale * GRADIENTS))
    np.testing.assert_array_equal(scaled, plain * (scale if optimizer in (msvag, svag, msgd) else np.sign(scale)))


def test_minibatch_variance_is_unbiased():
    batches = np.random.default_rng(8).normal(0.7, 2.0, size=(4, 200000))
    ours = minibatch_variance(batches)
    np.testing.assert_allclose(ours, batches.var(axis=0, ddof=1) / 4, rtol=1e-7, atol=1e-12)
    assert ours.mean() == pytest.approx(1.0, rel=0.005)
    printed = ((batches**2).sum(axis=0) / 3 - batches.mean(axis=0) ** 2) / 4
    assert printed.mean() == pytest.approx(1.124, rel=0.005)  # biased by E[g^2] / 12
    with pytest.raises(ValueError, match="two samples"):
        minibatch_variance(batches[:1])
    with pytest.raises(ValueError, match="two samples"):
        msvag_minibatch(THETA, SAMPLES[:, :1], 0.1)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_minibatch_variance_of_m_is_the_weighted_sum(beta):
    """Eq. 66: the variance of m is the sum of its squared weights times the variances of its gradients."""
    g, s = SAMPLES.mean(axis=1), SAMPLES.var(axis=1, ddof=1) / 8
    moves = -np.diff(msvag_minibatch(THETA, SAMPLES, 1.0, beta=beta), axis=0)
    for k in (1, 2, 3, 10, 200):
        weights = beta ** np.arange(k)[::-1] / (beta ** np.arange(k)).sum()
        m, variance = weights @ g[:k], weights**2 @ s[:k]
        np.testing.assert_allclose(moves[k - 1], m**3 / (m**2 + variance), rtol=0, atol=1e-13)


def test_bounds_and_directions():
    """|step| <= lr for Adam*, <= lr |m| for M-SVAG, and never against m."""
    m = -np.diff(msgd(THETA, GRADIENTS, 1.0), axis=0)
    damped = -np.diff(msvag(THETA, GRADIENTS, 1.0), axis=0)
    star = -np.diff(adam_star(THETA, GRADIENTS, 1.0), axis=0)
    assert (np.abs(damped) <= np.abs(m) + 1e-14).all()
    assert (damped * m >= 0).all()
    assert (np.abs(star) <= 1 + 1e-14).all()
    assert (star * m >= 0).all()
    signs = -np.diff(mssd(THETA, GRADIENTS, 1.0), axis=0)
    np.testing.assert_array_equal(signs, np.sign(m))


def test_constant_gradient_has_no_variance():
    constant = np.full((300, 2), [0.1, -3e-9])
    for beta in (0.01, 0.9, 0.999):
        for optimizer in (msvag, svag):
            sgd = sgdm(np.zeros(2), constant, 0.1, momentum=0.0)
            np.testing.assert_allclose(optimizer(np.zeros(2), constant, 0.1, beta=beta), sgd, rtol=1e-13)
        star = adam_star(np.zeros(2), constant, 0.125, beta=beta)
        np.testing.assert_allclose(star, ssd(np.zeros(2), constant, 0.125), rtol=1e-13)


def test_lemma_3():
    """Wilson et al.'s trap: sign descent stays on one line, M-SVAG leaves it at its first step."""
    x, lr = np.array([1.0, -2.0, 3.0, 0.5]), 0.01
    end = {}
    for optimizer in (ssd, msvag):
        gradients: list[np.ndarray] = []
        for _ in range(30):
            theta = optimizer(np.zeros(4), gradients, lr)[-1]
            gradients.append(x * (x @ theta - 1))
        end[optimizer] = optimizer(np.zeros(4), gradients, lr)[-1] * np.sign(x)
    np.testing.assert_allclose(end[ssd], end[ssd][0], rtol=1e-12)
    np.testing.assert_allclose(end[msvag] / end[msvag][0], np.abs(x), rtol=0.01)
