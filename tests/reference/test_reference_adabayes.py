"""AdaBayes' oracle against facts found otherwise: fixed points, limits, closed forms of the relaxation."""

import numpy as np
import pytest

from . import adabayes, adabayes_fp, adamw, msgd

RANDOM = np.random.default_rng(4)
GRADIENTS = RANDOM.normal(0.2, 1.0, size=(200, 40))
THETA = np.zeros(40)


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest error of any displacement, against the largest displacement."""
    return float(np.abs(actual - expected).max() / np.abs(expected - expected[0]).max())


def posterior(mean_gradient: float, steps: int, lr: float | list[float], **keywords) -> np.ndarray:
    """sigma_post^2 after each step with a constant gradient, for which <g> = g: the step over the summed gradient."""
    trajectory = adabayes([0.0], [[mean_gradient]] * steps, lr, **keywords)
    return -np.diff(trajectory[:, 0]) / (keywords.get("batch_size", 1) * mean_gradient)


def test_reciprocals_of_the_algorithms():
    """Both listings print a variance where its reciprocal belongs; the numbers differ by factors of a million."""
    assert posterior(1e-9, 1, 1e-3, sgd_lr=1e-3)[0] == pytest.approx(1e-3, rel=1e-12)
    step = -adabayes_fp([0.0], [[1.0]], 1e-3, sgd_lr=1e-3)[1, 0]
    assert step == pytest.approx(1e-3 * (np.sqrt(5) - 1) / 2, rel=1e-15)  # 6.18e-4


@pytest.mark.parametrize(
    ("mean_gradient", "lr", "sgd_lr", "B"), [(1.0, 1e-3, 0.1, 1), (0.05, 1e-2, 0.1, 128), (3.0, 0.3, 2.0, 1)]
)
@pytest.mark.parametrize("transition", ["euler", "exact"])
def test_fixed_point_with_constant_gradient(mean_gradient, lr, sgd_lr, B, transition):
    """L = 1/post solves e^2 L^2 + (q - 1 - e^2 g^2) L - q g^2 = 0, e^2 what a step adds to q post."""
    sigma2, g2 = sgd_lr / B, (B * mean_gradient) ** 2
    q = (1 - lr**2 / (2 * sigma2)) ** 2 if transition == "euler" else np.exp(-(lr**2) / sigma2)
    added = lr**2 if transition == "euler" else sigma2 * (1 - q)
    L = np.roots([added, q - 1 - added * g2, -q * g2]).max()
    post = posterior(mean_gradient, 12000, lr, sgd_lr=sgd_lr, batch_size=B, transition=transition)[-1]
    assert post == pytest.approx(1 / L, rel=1e-10)


@pytest.mark.parametrize(("x", "ratio"), [(0.01, 0.995), (0.1, 0.951), (1.0, 0.618), (10.0, 0.099)])
def test_high_data_limit_is_mean_square_not_root_mean_square(x, ratio):
    """post over Eq. 21's fixed point at sigma^2 -> infinity, where lr |g| = x: Adam only while x is small."""
    post = posterior(x / 1e-3, 3000, 1e-3, sgd_lr=1e12)[-1]
    fixed_point = -adabayes_fp([0.0], [[x / 1e-3]], 1e-3, sgd_lr=1e12)[1, 0] / (x / 1e-3)
    assert post / fixed_point == pytest.approx(1 / (x / 2 + np.sqrt(x**2 / 4 + 1)), rel=1e-8)
    assert post / fixed_point == pytest.approx(ratio, abs=6e-4)


@pytest.mark.parametrize("x", [1e-3, 0.5, 3.9])
def test_stationary_variance_without_data(x):
    """The exact transition keeps sigma^2; Eq. 17b as printed drifts to sigma^2 / (1 - eta^2 / 4 sigma^2)."""
    sgd_lr, steps = 1 / x, int(20 / x) + 400
    assert posterior(1e-12, steps, 1.0, sgd_lr=sgd_lr)[-1] == pytest.approx(sgd_lr, rel=1e-11)
    euler = posterior(1e-12, steps, 1.0, sgd_lr=sgd_lr, transition="euler")
    assert euler[0] == pytest.approx(sgd_lr * (1 + (x / 2) ** 2), rel=1e-15)
    assert euler[-1] == pytest.approx(sgd_lr / (1 - x / 4), rel=1e-8)
    if x == 1e-3:
        assert euler[-1] / sgd_lr == pytest.approx(1.00025, abs=1e-6)


def test_euler_is_refused_where_it_diverges():
    """At eta^2 = 4 sigma^2 (here exactly, in powers of two) the variance would never settle."""
    for B in (2**20, 2**21):
        with pytest.raises(ValueError, match="diverges"):
            adabayes(THETA, GRADIENTS[:1], 2**-10, sgd_lr=0.25, batch_size=B, transition="euler")
    adabayes(THETA, GRADIENTS[:1], 2**-10, sgd_lr=0.25, batch_size=2**20 - 1, transition="euler")
    assert np.isfinite(adabayes(THETA, GRADIENTS, 1e-3, batch_size=2**20)).all()
    with pytest.raises(ValueError, match="transition"):
        adabayes(THETA, GRADIENTS, 1e-3, transition="printed")


@pytest.mark.parametrize(
    ("B", "expected"), [(128, {1001: 10.0, 2000: 8.9, 10000: 3.8}), (1, {1001: 10.0, 10000: 9.92})]
)
def test_variance_lags_behind_the_schedule(B, expected):
    """After lr / 10 at step 1001 sigma_post^2 relaxes to a tenth on the time scale sigma^2 / eta^2."""
    ratio = posterior(1e-9, 10000, [1e-3] * 1000 + [1e-4] * 9000, batch_size=B) / (0.01 / B)
    x = 1e-4**2 / (0.01 / B)
    for t, value in expected.items():
        assert ratio[t - 1] == pytest.approx(1 + 9 * np.exp(-x * (t - 1000)), rel=1e-9)
        assert ratio[t - 1] == pytest.approx(value, abs=0.05)


def test_spike_is_damped_for_one_step_only():
    """A spike's momentum outlives the small variance that it caused: beta / (1 - beta) eta^2 g more displacement."""
    gradients = [[0.0]] * 400 + [[1e5]] + [[0.0]] * 400
    assert -adabayes([0.0], gradients, 1e-3)[-1, 0] == pytest.approx(0.90, rel=1e-3)
    assert -adabayes_fp([0.0], gradients, 1e-3)[-1, 0] < 0.05


@pytest.mark.parametrize("sgd_lr", [0.1, 1e2, 1e5, 1e8, 1e12])
def test_fixed_point_tends_to_adamw(sgd_lr):
    """Rate eta / (2 eta_SGD |g|); to first order that is AdamW's eps on mean gradients."""
    gradients, shift = np.sign(GRADIENTS) * np.maximum(np.abs(GRADIENTS), 0.1), 1e-3 / (2 * sgd_lr)
    ours = adabayes_fp(THETA, gradients, 1e-3, sgd_lr=sgd_lr, batch_size=32, weight_decay=0.05)
    adam = adamw(THETA, gradients, 1e-3, eps=0.0, weight_decay=0.05)
    assert relative_error(ours, adam) < shift / 0.1 + 1e-15
    shifted = adamw(THETA, gradients, 1e-3, eps=shift, weight_decay=0.05)
    assert relative_error(ours, shifted) < (shift / 0.1) ** 2 / 2 + 1e-15


@pytest.mark.parametrize(("eps", "B"), [(1e-8, 1), (1.0, 64)])
def test_eps_is_inside_the_root_on_the_summed_scale(eps, B):
    ours = adabayes_fp(THETA, GRADIENTS, 1e-3, sgd_lr=1e12, batch_size=B, eps=eps)
    inside = adamw(THETA, GRADIENTS, 1e-3, eps=eps / B**2, eps_inside=True)
    assert relative_error(ours, inside) < 1e-14


@pytest.mark.parametrize("B", [2, 100, 4096])
def test_batch_size_cancels_in_the_fixed_point(B):
    np.testing.assert_allclose(
        adabayes_fp(THETA, GRADIENTS, 1e-3, batch_size=B), adabayes_fp(THETA, GRADIENTS, 1e-3), rtol=0, atol=2e-16
    )


@pytest.mark.parametrize("c", [4.0, 0.25])
def test_only_eta2_batch_and_batch_g2_matter(c):
    """The Kalman filter's own scaling: with eta^2 B and B g^2 kept, theta changes its unit and nothing else."""
    plain = adabayes(THETA, GRADIENTS, 1e-2, sgd_lr=0.1, batch_size=8)
    scaled = adabayes(THETA, GRADIENTS / np.sqrt(c), 1e-2 / np.sqrt(c), sgd_lr=0.1, batch_size=8 * c)
    np.testing.assert_allclose(scaled * np.sqrt(c), plain, rtol=0, atol=1e-15)


@pytest.mark.parametrize("scale", [1e-3, 1e-5, 1e-8])
def test_sgd_limit(scale):
    sgd = msgd(THETA, scale * GRADIENTS, 0.1, weight_decay=0.05)
    fixed_point = adabayes_fp(THETA, scale * GRADIENTS, 1e-3, weight_decay=5.0)
    assert relative_error(fixed_point, sgd) < 2 * (0.1 * scale / 1e-3) ** 2 + 1e-15
    exact = adabayes(THETA, scale * GRADIENTS, 1e-3, weight_decay=5.0)
    assert relative_error(exact, sgd) < 20 * scale**2 + 1e-14


def test_rates_of_zero():
    """The moments advance, the parameter and sigma_post^2 do not; sgd_lr belongs to `reference_lr`."""
    gradients = GRADIENTS[:4]
    for optimizer in (adabayes, adabayes_fp):
        assert (optimizer(THETA + 1, gradients, 0.0, weight_decay=0.1) == 1).all()
        with pytest.raises(ValueError, match="reference_lr"):
            optimizer(THETA, gradients, [0.0, 0.1, 0.1, 0.1])
        warm = optimizer(THETA, gradients, [0.0, 0.01, 0.0, 0.01], reference_lr=0.01)
        assert (warm[1] == 0).all()
        assert (warm[3] == warm[2]).all()
        assert (warm[4] != warm[3]).all()
    tiny = [[1e-9]] * 3
    np.testing.assert_allclose(
        -np.diff(adabayes([0.0], tiny, [0.0, 2e-3, 1e-3], reference_lr=1e-3)[:, 0]) / 1e-9, [0, 0.2, 0.2], rtol=1e-5
    )
    # beta = 0.5 and g = 4, 1: the first gradient is in <g> = (4 / 4 + 1 / 2) / (3 / 4) = 2, but not in sigma_post^2
    warm = adabayes([0.0], [[4.0], [1.0]], [0.0, 1.0], sgd_lr=1.0, beta=0.5, reference_lr=1.0)
    assert -warm[2, 0] == pytest.approx(2 / (1 + 1), rel=1e-15)
