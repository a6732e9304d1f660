"""VSGD's oracle against facts found otherwise: fixed points, limits, scalings, and measured numbers."""

import numpy as np
import pytest

from . import constant_vsgd, normalized_sgd, sgdm, vsgd, vsgd_per_sample

RANDOM = np.random.default_rng(1)
GRADIENTS = RANDOM.normal(0.2, 1.0, size=(200, 40))
THETA = np.zeros(40)


def next_sigma2(state: dict[str, np.ndarray]) -> np.ndarray:
    """The variance that Eq. 16 will find at the step after this state: the harmonic sum of the two noises."""
    systematic, observation = state["systematic_variance"], state["observation_variance"]
    return systematic * observation / (systematic + observation)


def first_sigma2(optimizer, **keywords) -> tuple[float, float]:
    """(mu_1, sigma_1^2) for a first gradient of 1/2, read off the first step of rate 1."""
    trajectory, state = optimizer([0.0], [[0.5]], 1.0, eps=0.0, return_state=True, **keywords)
    mu = state["mean"][0]
    return mu, (mu / trajectory[1, 0]) ** 2 - mu**2


@pytest.mark.parametrize("gamma", [1e-8, 1e-3, 1.0, 100.0])
@pytest.mark.parametrize("delta", [0.0, 5e-5, 0.1])
@pytest.mark.parametrize(("optimizer", "sigma2"), [(vsgd, 30 / 31), (constant_vsgd, 1 / 31)])
def test_first_step(optimizer, sigma2, gamma, delta):
    """Without the offset "ignorance" is a prior variance of 1, whatever gamma is."""
    mu, measured = first_sigma2(optimizer, prior_strength=gamma, shape_offset=delta)
    assert mu == pytest.approx(0.5 / 31, rel=1e-15)
    assert measured == pytest.approx(gamma / (gamma + delta) * sigma2, rel=1e-10)  # the subtraction above cancels


def test_default_first_sigma2():
    assert first_sigma2(vsgd)[1] == pytest.approx(1.935e-4, rel=3e-4)
    assert first_sigma2(vsgd, shape_offset=0.0)[1] == pytest.approx(0.9677, rel=1e-4)


def test_offset_makes_the_first_step_70_times_larger():
    tiny = [1e-3 * GRADIENTS[0]]
    ratio = vsgd(THETA, tiny, 1.0, shape_offset=0.0)[1] / vsgd(THETA, tiny, 1.0)[1]
    np.testing.assert_allclose(ratio, 0.0141, rtol=5e-3)


@pytest.mark.parametrize(("t", "sigma"), [(1, 0.0139), (10, 0.0054), (100, 0.0020), (1000, 6.8e-4), (10000, 3.6e-4)])
def test_sigma_decays_to_its_floor(t, sigma):
    """Measured elsewhere, with zero gradients; given to two or three digits."""
    _, state = vsgd([0.0], [[0.0]] * (t - 1), 1.0, return_state=True)
    assert np.sqrt(next_sigma2(state)) == pytest.approx(sigma, rel=0.025)


@pytest.mark.parametrize("delta", [0.0, 5e-5])
@pytest.mark.parametrize(("gamma", "K"), [(0.01, 9.0), (1e-3, 30.0), (1.0, 2.0)])
def test_fixed_point_of_sigma2_with_zero_gradients(gamma, K, delta):
    a = 0.5 + gamma + delta
    root = np.roots([a - 0.25, gamma * (1 + K) * (a - 0.5), -K * gamma**2]).max()
    keywords = {"prior_strength": gamma, "variance_ratio": K, "shape_offset": delta, "kappas": (0.55, 0.6)}
    trajectory, state = vsgd([1.0], [[0.0]] * 4000, 1.0, return_state=True, **keywords)
    assert next_sigma2(state)[0] == pytest.approx(root, rel=1e-8)
    assert (trajectory == 1).all()
    if (gamma, K, delta) == (0.01, 9.0, 0.0):
        assert root == pytest.approx(0.056943, abs=5e-7)


@pytest.mark.parametrize(
    ("delta", "means"), [(5e-5, [3e-4, 0.25, 0.47, 0.78, 0.75]), (0.0, [5e-6, 5e-3, 0.05, 0.48, 0.76])]
)
def test_steps_are_not_scale_invariant(delta, means):
    """Mean |step| / lr at t = 200, measured elsewhere on a stream of which only the scale is known: hence 15 %."""
    gradients = np.random.default_rng(2).normal(0.28, 1.0, size=(200, 1000))
    for scale, mean in zip([1e-6, 1e-3, 1e-2, 1.0, 1e3], means, strict=True):
        trajectory = vsgd(np.zeros(1000), gradients * scale, 1.0, shape_offset=delta)
        assert np.abs(trajectory[-1] - trajectory[-2]).mean() == pytest.approx(mean, rel=0.15)


@pytest.mark.parametrize("c", [0.125, -2.0, 1e3])
def test_scaling_law(c):
    """Scaled gradients want a scaled prior strength; the offset keeps the shapes where they were."""
    gamma, delta = 1e-8, 5e-5
    plain = vsgd(THETA, GRADIENTS, 0.01, eps=0.0, prior_strength=gamma, shape_offset=delta)
    keywords = {"prior_strength": c**2 * gamma, "shape_offset": delta + gamma - c**2 * gamma, "eps": 0.0}
    np.testing.assert_allclose(vsgd(THETA, c * GRADIENTS, 0.01, **keywords), np.sign(c) * plain, rtol=0, atol=5e-14)


@pytest.mark.parametrize("K", [1e-4, 1e-6, 1e-8])
def test_normalized_sgd_limit(K):
    """The error of a step is K_g / (2 g^2) where the prior is strong and the gradient no smaller than |g|."""
    gradients = np.sign(GRADIENTS) * np.maximum(np.abs(GRADIENTS), 0.1)
    steps = np.diff(vsgd(THETA, gradients, 1.0, prior_strength=1e6, variance_ratio=K, eps=0.0), axis=0)
    error = np.abs(steps - np.diff(normalized_sgd(THETA, gradients, 1.0), axis=0)).max()
    assert error == pytest.approx(K / (2 * 0.1**2), rel=5e-3)


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.99])
def test_constant_mean_is_adams_and_sgdms_momentum(beta):
    _, state = constant_vsgd(THETA, GRADIENTS, 0.01, variance_ratio=beta / (1 - beta), return_state=True)
    m = np.zeros(40)
    for gradient in GRADIENTS:
        m = beta * m + (1 - beta) * gradient
    np.testing.assert_allclose(state["mean"], m, rtol=0, atol=1.1e-15)
    last_step = -np.diff(sgdm(THETA, GRADIENTS, 0.05, momentum=beta)[-2:], axis=0)[0]
    np.testing.assert_allclose(0.05 / (1 - beta) * state["mean"], last_step, rtol=0, atol=1e-13)


def test_calibrated_variance_of_observed_gradients():
    """The gain w has no preferred value, so only both variances together are calibrated: mu holds w/(2-w) of it.

    Measured elsewhere at scale 1e-2 after 2000 steps: w = .40, calibrated .999 of the truth, the raw v_ghat .76.
    """
    noise = np.random.default_rng(3).normal(0.0, 1e-2, size=(2000, 400))
    _, state = vsgd(np.zeros(400), noise, 0.01, return_state=True)
    systematic, observation = state["systematic_variance"], state["observation_variance"]
    w = systematic / (systematic + observation)
    assert w.mean() == pytest.approx(0.40, abs=0.03)
    assert ((systematic + observation) * (1 - w / 2)).mean() == pytest.approx(1e-4, rel=0.03)
    assert observation.mean() == pytest.approx(0.76e-4, rel=0.05)


@pytest.mark.parametrize("optimizer", [vsgd, constant_vsgd])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_rate_bounds_the_step(optimizer, scale):
    steps = np.diff(optimizer(THETA, scale * GRADIENTS, 1.0), axis=0)
    assert np.abs(steps).max() <= 1 + 1e-13  # differences of positions of size 100
    assert (np.sign(steps[0]) == -np.sign(GRADIENTS[0])).all()


def test_state_before_any_step():
    for optimizer, systematic in ((vsgd, 0.5), (constant_vsgd, 0.5 / 3)):
        _, state = optimizer(
            [1.0], [None], 0.1, prior_strength=0.1, variance_ratio=3, shape_offset=0.1, return_state=True
        )
        observation = 1.5 if optimizer is vsgd else 0.5
        values = [state[name][0] for name in ("mean", "systematic_variance", "observation_variance")]
        np.testing.assert_allclose(values, [0, systematic, observation], rtol=1e-15)


def test_state_worked_by_hand():
    unit = {"prior_strength": 1.0, "variance_ratio": 3.0, "shape_offset": 0.0, "return_state": True}
    _, state = vsgd([0.0], [[4.0], [27.0]], 1.0, kappas=(1.0, 2.0), **unit)
    np.testing.assert_allclose([v[0] for v in state.values()], [6, 3303 / 624, 51507 / 1248], rtol=1e-15)
    _, state = constant_vsgd([0.0], [[4.0], [9.0]], 1.0, kappa=1.0, **unit)
    np.testing.assert_allclose([v[0] for v in state.values()], [3, 8.59375 / 3, 8.59375], rtol=1e-15)
    _, state = constant_vsgd([0.0], [[4.0]], 1.0, **{**unit, "shape_offset": 1.0})
    np.testing.assert_allclose([v[0] for v in state.values()], [1, 7.25 / 9, 7.25 / 3], rtol=1e-15)
    _, state = vsgd_per_sample([0.0], [[[2.0], [6.0]]], 1.0, **unit)
    np.testing.assert_allclose([v[0] for v in state.values()], [1, 4 / 3, 6], rtol=1e-15)


@pytest.mark.parametrize(
    "keywords", [{}, {"kappas": (0.6, 1.0), "prior_strength": 0.1, "variance_ratio": 3.0, "eps": 1e-3}]
)
def test_one_sample_is_plain_vsgd(keywords):
    single = vsgd_per_sample(THETA, list(GRADIENTS[:, None]), 0.01, weight_decay=0.1, **keywords)
    np.testing.assert_array_equal(single, vsgd(THETA, GRADIENTS, 0.01, weight_decay=0.1, **keywords))


def test_samples_enter_through_mean_and_population_variance():
    """Two samples at mean +- deviation stand for any batch; and the mean alone would not do."""
    batches = RANDOM.normal(0.2, 1.0, size=(200, 8, 40))
    mean, deviation = batches.mean(axis=1), batches.std(axis=1)
    full = vsgd_per_sample(THETA, list(batches), 0.01)
    np.testing.assert_allclose(
        vsgd_per_sample(THETA, list(np.stack([mean + deviation, mean - deviation], axis=1)), 0.01), full, atol=1e-13
    )
    assert np.abs(vsgd(THETA, mean, 0.01) - full).max() > 0.05
