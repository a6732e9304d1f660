"""Limits and identities of VSGD and ConstantVSGD that the paper argues with, and those that correct it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import varigrad
from tests import reference
from tests.stepping import noise, relative_error, run

D = 40
WAYS = pytest.mark.parametrize("flags", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)


@WAYS
@pytest.mark.parametrize("ratio", [1e-4, 1e-6, 1e-8])
def test_a_vanishing_variance_ratio_gives_normalized_sgd(flags, ratio):
    """A gradient g is followed with |g| / √(g² + K), so that the relative error of a step is K / (2 min g²)."""
    gradients = noise()
    gradients = gradients.sign() * gradients.abs().clamp(min=0.1)
    ours, _ = run(
        varigrad.VSGD, gradients, variance_ratio=ratio, prior_strength=1e6, shape_offset=0.0, eps=0.0, **flags
    )
    exact = torch.from_numpy(reference.normalized_sgd(np.zeros(D), list(gradients.numpy()), 1e-2))
    steps = (ours.diff(dim=0) - exact.diff(dim=0)).abs().max() / 1e-2
    bound = ratio / (2 * gradients.square().min().item())
    assert 0.9 * bound <= steps <= 1.01 * bound


@pytest.mark.parametrize("ratio", [1e-4, 1e-8])
def test_the_normalized_limit_survives_float32(ratio):
    """The authors' expanded square is negative at the first step here, and NaN later on."""
    ours, state = run(varigrad.VSGD, noise(steps=1000).float(), variance_ratio=ratio, eps=0.0)
    assert ours.isfinite().all()
    assert state["observation_var"].min() > 0


@WAYS
@pytest.mark.parametrize("beta1", [0.5, 0.9, 0.99])
def test_constant_vsgd_keeps_adams_first_moment(flags, beta1):
    gradients = noise()
    moment = torch.zeros(D, dtype=torch.float64)
    errors = []

    def compare(state):
        nonlocal moment
        moment = beta1 * moment + (1 - beta1) * gradients[len(errors)]
        errors.append((state["mean"] - moment).abs().max().item())

    run(varigrad.ConstantVSGD, gradients, variance_ratio=beta1 / (1 - beta1), each=compare, **flags)
    assert max(errors) <= 4e-15


@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.99])
def test_constant_vsgd_keeps_the_velocity_of_sgd_with_momentum(momentum):
    """K = λ/(1-λ), where the paper's Sec. 3.2.2 has λ/η, and v = η/(1-λ) μ."""
    eta, gradients, velocity, errors = 0.05, noise(1), torch.zeros(D, dtype=torch.float64), []

    def compare(state):
        nonlocal velocity
        velocity = momentum * velocity + eta * gradients[len(errors)]
        errors.append((eta / (1 - momentum) * state["mean"] - velocity).abs().max().item())

    run(varigrad.ConstantVSGD, gradients, variance_ratio=momentum / (1 - momentum), each=compare)
    assert max(errors) <= 3e-14


@WAYS
@given(
    gamma=st.floats(1e-9, 10.0),
    ratio=st.floats(1e-3, 1e3),
    offset=st.sampled_from([0.0, 5e-5, 0.1]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_the_first_step(flags, gamma, ratio, offset, seed):
    """μ₁ = g/(K+1) and σ₁² = γ/(γ+δ) K/(K+1), for ConstantVSGD γ/(γ+δ) 1/(K+1)."""
    gradients = noise(seed, steps=1)
    prior = gamma / (gamma + offset)
    for optimizer_class, variance in ((varigrad.VSGD, ratio), (varigrad.ConstantVSGD, 1.0)):
        trail, state = run(
            optimizer_class,
            gradients,
            prior_strength=gamma,
            variance_ratio=ratio,
            shape_offset=offset,
            eps=0.0,
            **flags,
        )
        mean = gradients[0] / (ratio + 1)
        torch.testing.assert_close(state["mean"], mean, rtol=1e-13, atol=0)
        sigma2 = prior * variance / (ratio + 1)
        torch.testing.assert_close(trail[1], -1e-2 * mean / (mean**2 + sigma2).sqrt(), rtol=1e-12, atol=0)


@WAYS
@pytest.mark.parametrize("scale", [1e-3, 10.0, 1e3])
def test_scaling_the_gradient_is_scaling_the_prior(flags, scale):
    """VSGD(γ, δ; g) = VSGD(c²γ, δ + γ - c²γ; c g): the exact law behind "scale invariance", which there is not."""
    gamma, offset = 1e-3, 1e3 + 5e-5
    gradients = noise(2)
    plain, _ = run(varigrad.VSGD, gradients, prior_strength=gamma, shape_offset=offset, eps=0.0, **flags)
    scaled, _ = run(
        varigrad.VSGD,
        scale * gradients,
        prior_strength=scale**2 * gamma,
        shape_offset=offset + gamma - scale**2 * gamma,
        eps=0.0,
        **flags,
    )
    assert relative_error(scaled, plain) <= 1e-11
    naive, _ = run(varigrad.VSGD, scale * gradients, prior_strength=gamma, shape_offset=offset, eps=0.0, **flags)
    assert relative_error(naive, plain) > 1e-3


@WAYS
def test_zero_gradients_leave_the_weight_and_a_floor_of_uncertainty(flags):
    """σ² settles where (a-¼)s² + γ(1+K)(a-½)s - Kγ² = 0."""
    gamma, ratio = 0.01, 9.0
    a = 0.5 + gamma
    p, q, r = a - 0.25, gamma * (1 + ratio) * (a - 0.5), -ratio * gamma**2
    floor = (-q + math.sqrt(q * q - 4 * p * r)) / (2 * p)
    gradients = torch.zeros(20_000, 2, dtype=torch.float64)
    trail, state = run(
        varigrad.VSGD,
        gradients,
        prior_strength=gamma,
        variance_ratio=ratio,
        shape_offset=0.0,
        kappas=(0.6, 0.6),
        **flags,
    )
    v_g, v_o = state["systematic_var"], state["observation_var"]
    assert trail.abs().max() == 0
    assert floor == pytest.approx(0.05694318, abs=1e-8)
    assert (v_g * v_o / (v_g + v_o)).tolist() == pytest.approx([floor] * 2, rel=1e-6)


@WAYS
@given(seed=st.integers(0, 99), scale=st.sampled_from([1e-6, 1.0, 1e3]))
@settings(max_examples=10, deadline=None)
def test_no_weight_moves_further_than_the_learning_rate(flags, seed, scale):
    for optimizer_class in (varigrad.VSGD, varigrad.ConstantVSGD):
        trail, _ = run(optimizer_class, noise(seed, scale, steps=50), lr=0.5, **flags)
        assert trail.diff(dim=0).abs().max() <= 0.5


def per_sample(samples, **arguments):
    """Steps VSGD on single-sample gradients (T, M, D) by way of their mean and variance."""
    param = torch.zeros(samples.shape[2:], dtype=samples.dtype, requires_grad=True)
    optimizer = varigrad.VSGD([param], lr=1e-2, variance="batch", **arguments)
    count = samples.shape[1]
    for gradients in samples:
        param.grad = gradients.mean(0)
        # One sample has no unbiased variance, and whatever is set must not matter.
        param.grad_variance = gradients.var(0) / count if count > 1 else torch.full_like(param, torch.nan)
        param.grad_samples = count
        optimizer.step()
    return param.detach()


@WAYS
@pytest.mark.parametrize("count", [2, 7])
def test_samples_treated_separately(flags, count):
    """Appendix A.3 needs M evaluations as printed; mean and variance are enough."""
    samples = torch.stack([noise(seed, 0.1) for seed in range(count)], dim=1) + 0.05 * noise(9)[:, None]
    exact = torch.from_numpy(reference.vsgd_per_sample(np.zeros(D), list(samples.numpy()), 1e-2)[-1])
    ours = per_sample(samples, **flags)
    assert relative_error(ours, exact) <= 1e-12
    assert relative_error(run(varigrad.VSGD, samples.mean(1))[0][-1], exact) > 1e-3


@WAYS
def test_one_sample_is_the_plain_method(flags):
    samples = noise(3)[:, None]
    assert relative_error(per_sample(samples, **flags), run(varigrad.VSGD, samples[:, 0], **flags)[0][-1]) <= 1e-13


@pytest.mark.parametrize(
    ("variance", "samples", "error", "text"),
    [
        (None, 4, RuntimeError, "its grad_variance is missing"),
        (torch.ones(3), None, RuntimeError, "its grad_samples is missing"),
        (torch.ones(4), 4, ValueError, r"grad_variance has the shape \(4,\), where \(3,\) is accepted"),
        (torch.ones(3), 0, ValueError, "grad_samples = 0, where at least 1"),
        (torch.ones(3), 2.5, TypeError, "grad_samples = 2.5"),
        ([1, 1, 1], 4, TypeError, "grad_variance of type list"),
    ],
)
def test_a_missing_or_wrong_batch_variance_is_named_and_changes_nothing(variance, samples, error, text):
    first, second = (torch.zeros(3, requires_grad=True) for _ in range(2))
    optimizer = varigrad.VSGD([("good", first), ("odd", second)], variance="batch")
    for param, (v, m) in ((first, (torch.ones(3), 4)), (second, (variance, samples))):
        param.grad = torch.ones(3)
        if v is not None:
            param.grad_variance = v
        if m is not None:
            param.grad_samples = m
    with pytest.raises(error, match=text) as raised:
        optimizer.step()
    assert "parameter odd of group 0" in str(raised.value)
    assert first.abs().max() == 0
    assert not optimizer.state
