"""AdaBayes' fixed points against the iterated filter, the printed equations and their limits."""

import math
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from varigrad.theory import adabayes_fixed_point, adabayes_fp_variance


def iterated(squared_gradient, lr, prior_variance, transition):
    """Eq. 17b and 18a from σ², until nothing moves any more."""
    if transition == "exact":
        kept, noise = math.exp(-(lr**2) / prior_variance), prior_variance * -math.expm1(-(lr**2) / prior_variance)
    else:
        kept, noise = (1 - lr**2 / (2 * prior_variance)) ** 2, lr**2
    post = prior_variance
    for _ in range(200_000):
        before, post = post, 1 / (1 / (kept * post + noise) + squared_gradient)
        if post == before:
            break
    return post


@pytest.mark.parametrize(("lr", "prior_variance"), [(0.05, 1e-3), (0.05, 0.1), (0.05, 10.0), (0.3, 0.03), (0.3, 10.0)])
@pytest.mark.parametrize("transition", ["exact", "euler"])
@pytest.mark.parametrize("gradient", [0.0, 0.1, 1.0, 30.0, 1e4])
def test_fixed_point_of_the_filter(gradient, transition, lr, prior_variance):
    expected = iterated(gradient**2, lr, prior_variance, transition)
    assert adabayes_fixed_point(gradient**2, lr, prior_variance, transition) == pytest.approx(
        expected, rel=1e-11, abs=0
    )


@given(st.floats(0, 1e6), st.floats(1e-6, 1.0), st.floats(1e-6, 10.0))
def test_one_step_of_the_filter_stays_there(gradient, lr, prior_variance):
    post = adabayes_fixed_point(gradient**2, lr, prior_variance)
    rate = lr**2 / prior_variance
    prior = math.exp(-rate) * post + prior_variance * -math.expm1(-rate)
    assert 1 / (1 / prior + gradient**2) == pytest.approx(post, rel=1e-12, abs=0)


def test_no_digits_are_lost_at_small_rates():
    """The quadratic equation for Λ = 1/P, η² Λ² + (q - 1 - η² g²) Λ - q g² = 0, with 60 digits."""
    for lr, g2, sigma2 in [
        ("1e-5", "1e-4", "0.01"),
        ("1e-3", "1e4", "1e-3"),
        ("1e-4", "1e-12", "1"),
        ("0.1", "7", "1e-2"),
    ]:
        with localcontext() as context:
            context.prec = 60
            eta2, g2_, q = Decimal(lr) ** 2, Decimal(g2), (1 - Decimal(lr) ** 2 / (2 * Decimal(sigma2))) ** 2
            linear = q - 1 - eta2 * g2_
            expected = 2 * eta2 / (-linear + (linear**2 + 4 * eta2 * q * g2_).sqrt())
        value = adabayes_fixed_point(float(g2), float(lr), float(sigma2), "euler")
        assert value == pytest.approx(float(expected), rel=1e-14, abs=0)


def test_without_a_gradient_only_the_exact_transition_rests_at_the_prior():
    for lr in (1e-8, 1e-3, 0.1, 10.0):
        assert adabayes_fixed_point(0.0, lr, 0.1 / 128) == pytest.approx(0.1 / 128, rel=1e-14, abs=0)
    sigma2 = 1e-3
    ratio = adabayes_fixed_point(0.0, math.sqrt(1e-3 * sigma2), sigma2, "euler") / sigma2
    assert ratio == pytest.approx(1 / (1 - 1e-3 / 4), rel=1e-13, abs=0)
    assert ratio == pytest.approx(1.00025, abs=1e-7)


def test_ratio_of_the_exact_to_the_approximate_fixed_point():
    """1/(u/2 + √(1 + u²/4)) with u = η|g|, for σ² → ∞: the Adam limit holds while u is small."""
    lr = 1e-3
    g = torch.tensor([0.01, 0.1, 1.0, 10.0], dtype=torch.float64) / lr
    for prior_variance in (math.inf, 1e12):
        ratio = adabayes_fixed_point(g**2, lr, prior_variance) / adabayes_fp_variance(g**2, lr, prior_variance)
        assert [round(value, 3) for value in ratio.tolist()] == [0.995, 0.951, 0.618, 0.099]
        torch.testing.assert_close(ratio, 1 / (lr * g / 2 + (1 + (lr * g) ** 2 / 4).sqrt()), rtol=1e-9, atol=0)


def test_approximation_is_within_five_percent_for_small_steps_only():
    lr, g = 1e-3, torch.logspace(-4, 2, 50, dtype=torch.float64)  # η|g| up to 0.1
    for prior_variance in (1e-5, 1e-3, 0.1, 1e4):
        ratio = adabayes_fixed_point(g**2, lr, prior_variance) / adabayes_fp_variance(g**2, lr, prior_variance)
        assert ((ratio - 1).abs() < 0.05).all()
    assert adabayes_fixed_point(1e5, lr, 0.1) / adabayes_fp_variance(1e5, lr, 0.1) < 0.9


def test_fp_is_the_printed_equation():
    for g2, lr, sigma2 in [(1.0, 1e-3, 1e-3), (4.0, 0.1, 0.5), (1e-6, 1e-2, 1e-4)]:
        precision = 1 / (2 * sigma2) + math.sqrt(1 / (4 * sigma2**2) + g2 / lr**2)
        assert adabayes_fp_variance(g2, lr, sigma2) == pytest.approx(1 / precision, rel=1e-14, abs=0)
    # σ_post² = 1/1618, which Algorithm 2 would take for σ_post² itself
    assert adabayes_fp_variance(1.0, 1e-3, 1e-3) == pytest.approx(6.18034e-4, rel=1e-6, abs=0)


def test_fp_limits():
    assert adabayes_fp_variance(0.0, 1e-3, 0.1) == pytest.approx(0.1, rel=1e-15, abs=0)  # SGD
    assert adabayes_fp_variance(25.0, 1e-3, math.inf) == pytest.approx(1e-3 / 5, rel=1e-15, abs=0)  # Adam
    assert adabayes_fp_variance(1e200, 1e-3, 0.1) == pytest.approx(1e-103, rel=1e-12, abs=0)
    assert adabayes_fp_variance(0.0, 1e-3, math.inf) == math.inf


def test_fixed_point_limits():
    assert adabayes_fixed_point(25.0, 1e-9, math.inf) == pytest.approx(1e-9 / 5, rel=1e-8, abs=0)  # Adam
    assert adabayes_fixed_point(1e12, 1.0, 0.1) == pytest.approx(1e-12, rel=1e-10, abs=0)  # mean square
    assert adabayes_fixed_point(1e200, 1.0, 0.1) == pytest.approx(1e-200, rel=1e-10, abs=0)
    assert adabayes_fixed_point(0.0, 1e-3, math.inf) == math.inf
    assert adabayes_fixed_point(1.0, 1e-3, math.inf) == adabayes_fixed_point(1.0, 1e-3, math.inf, "euler")


def test_euler_diverges_beyond_four_prior_variances():
    assert adabayes_fixed_point(0.0, 1.0, 0.2501, "euler") > 100
    for prior_variance in (0.25, 0.1):
        with pytest.raises(
            ValueError, match=r"^prior_variance = .* not accepted with lr = 1\.0: it must be above lr²/4"
        ):
            adabayes_fixed_point(1.0, 1.0, prior_variance, "euler")
    assert adabayes_fixed_point(0.0, 1.0, 0.1) == pytest.approx(0.1, rel=1e-14, abs=0)


def test_unknown_transition():
    with pytest.raises(ValueError, match=r"^transition = 'Exact' .*'exact' or 'euler'"):
        adabayes_fixed_point(1.0, 1e-3, 0.1, "Exact")
