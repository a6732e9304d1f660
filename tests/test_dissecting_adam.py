"""Limits and identities of the methods of "Dissecting Adam": SVAG, MSVAG, AdamStar, MSGD, SSD and MSSD."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import varigrad
from tests import reference
from tests.stepping import noise, relative_error, run

WAYS = pytest.mark.parametrize("flags", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
MAGNITUDE = [varigrad.MSGD, varigrad.SVAG, varigrad.MSVAG]
SIGN = [varigrad.SSD, varigrad.MSSD, varigrad.AdamStar]


@WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("optimizer_class", MAGNITUDE)
def test_the_first_step_is_sgds_to_the_bit(flags, optimizer_class, dtype):
    """Others cap ρ below one instead of taking the first variance for zero, and are off by up to a third."""
    gradient, lr = noise(steps=1).to(dtype), 0.0625  # exact, so that torch's fused multiplication rounds as often
    for start in (None, noise(1, steps=1)[0].to(dtype)):
        ours, _ = run(optimizer_class, gradient, lr, start, rounding="nearest", **flags)
        sgd, _ = run(torch.optim.SGD, gradient, lr, start)
        assert torch.equal(ours[1], sgd[1])


@WAYS
@pytest.mark.parametrize("optimizer_class", SIGN)
def test_the_first_step_is_sign_descents_to_the_bit(flags, optimizer_class):
    gradient = noise(steps=1)
    gradient[0, 3] = 0.0
    ours, _ = run(optimizer_class, gradient, 0.1, **flags)
    assert torch.equal(ours[1], -0.1 * gradient[0].sign())
    assert ours[1][3] == 0


@WAYS
@given(exponents=st.lists(st.integers(-60, 60), min_size=40, max_size=40), seed=st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_scaling_each_weights_gradient_by_a_power_of_two(flags, exponents, seed):
    """Sign methods do not notice, the others follow it, to the bit; with the gradient's sign turned, both turn."""
    signs = torch.tensor([(-1.0) ** e for e in exponents], dtype=torch.float64)
    scale = signs * torch.tensor([2.0**e for e in exponents], dtype=torch.float64)
    gradients = noise(seed, steps=30)
    for optimizer_class in (*MAGNITUDE, *SIGN):
        plain, _ = run(optimizer_class, gradients, 0.0625, **flags)
        scaled, _ = run(optimizer_class, gradients * scale, 0.0625, **flags)
        assert torch.equal(scaled, plain * (scale if optimizer_class in MAGNITUDE else signs))


@WAYS
@pytest.mark.parametrize("scale", [1e-30, 1e-24, 1e-18, 1e15])
def test_the_scale_law_holds_where_squares_underflow(flags, scale):
    """Float32 gradients of 1e-24 have the square zero: the naive variance makes no step at all."""
    gradients = noise(steps=50)
    for optimizer_class in (varigrad.SVAG, varigrad.MSVAG):
        exact, _ = run(optimizer_class, gradients, 0.1)
        ours, _ = run(optimizer_class, (scale * gradients).float(), 0.1, **flags)
        assert relative_error(ours.double() / scale, exact) <= 2e-6


@WAYS
def test_the_deviation_is_the_root_of_the_variance(flags):
    beta, gradients = 0.9, noise(3) + 0.5
    m, v, errors = torch.zeros(40, dtype=torch.float64), torch.zeros(40, dtype=torch.float64), []

    def compare(state):
        nonlocal m, v
        k = len(errors) + 1
        m = beta * m + (1 - beta) * gradients[k - 1]
        v = beta * v + (1 - beta) * gradients[k - 1] ** 2
        mean, square = m / (1 - beta**k), v / (1 - beta**k)
        errors.append((state["deviation"] ** 2 - (square - mean**2)).abs().max().item())

    run(varigrad.MSVAG, gradients, each=compare, **flags)
    assert max(errors) <= 1e-13


@pytest.mark.parametrize("ratio", [1e-2, 1e-3, 1e-4])
def test_float32_sees_a_small_variance_beside_a_large_mean(ratio):
    """v - m² has relative errors of 1e-3, 0.12 and 12 here."""
    gradients = (1.0 + ratio * noise(4)).float()
    _, exact = run(varigrad.MSVAG, gradients.double())
    _, ours = run(varigrad.MSVAG, gradients)
    assert relative_error(ours["deviation"].double() ** 2, exact["deviation"] ** 2) <= 3e-7 / ratio


@WAYS
def test_steps_are_bounded(flags):
    for seed in range(3):
        gradients = noise(seed) + 0.1
        means: list[torch.Tensor] = []
        keep = lambda state, means=means: means.append(state["mean"].clone())  # noqa: E731
        svag, _ = run(varigrad.MSVAG, gradients, 0.5, each=keep, **flags)
        slack = 1 + 1e-12
        assert (svag.diff(dim=0).abs() <= 0.5 * torch.stack(means).abs() * slack + 1e-15).all()
        star, _ = run(varigrad.AdamStar, gradients, 0.5, **flags)
        assert star.diff(dim=0).abs().max() <= 0.5 * slack


@WAYS
def test_a_beta_of_zero_is_plain_descent(flags):
    gradients, lr = noise(), 0.0625
    sgd, _ = run(torch.optim.SGD, gradients, lr)
    for optimizer_class in MAGNITUDE:
        assert relative_error(run(optimizer_class, gradients, lr, beta=0.0, **flags)[0], sgd) <= 1e-15
    signs, _ = run(varigrad.SSD, gradients, lr, **flags)
    for optimizer_class in (varigrad.MSSD, varigrad.AdamStar):
        assert torch.equal(run(optimizer_class, gradients, lr, beta=0.0, **flags)[0], signs)


def test_momentum_sgd_is_torchs_on_another_scale():
    gradients = noise(steps=600)
    ours = run(varigrad.MSGD, gradients, 0.1, beta=0.9)[0].diff(dim=0)
    theirs = run(torch.optim.SGD, gradients, 0.1 * (1 - 0.9), momentum=0.9)[0].diff(dim=0)
    assert relative_error(ours[300:], theirs[300:]) <= 1e-12
    assert relative_error(ours[:5], theirs[:5]) > 0.1


@WAYS
def test_an_unused_weight_stays_and_a_used_one_moves(flags):
    gradients = noise(steps=50)
    gradients[:, :7] = 0.0
    for optimizer_class in (*MAGNITUDE, *SIGN):
        trail, _ = run(optimizer_class, gradients, 0.1, **flags)
        assert (trail[:, :7] == 0).all()
        assert (trail[-1, 7:] != 0).all()


def test_variance_adaptation_leaves_the_line_that_sign_descent_is_bound_to():
    """Lemma 3: with X = [1, -2, 3, ½] and y = 1 sign descent from zero stays on the line along sign(Xᵀy)."""
    x = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    start = torch.zeros(4, dtype=torch.float64)

    def descend(optimizer_class, **arguments):
        param = start.clone().requires_grad_()
        optimizer = optimizer_class([param], **arguments)
        for _ in range(40):
            param.grad = (x @ param.detach() - 1.0) * x
            optimizer.step()
        return param.detach() * x.sign()

    on_line, off_line = descend(varigrad.SSD, lr=1e-2), descend(varigrad.MSVAG, lr=1e-2)
    assert (on_line - on_line[0]).abs().max() <= 1e-15
    assert off_line.std() / off_line.mean() > 0.3


def batch_run(samples, lr=0.1, **arguments):
    """Steps MSVAG on single-sample gradients (T, B, D) by way of their mean and its variance."""
    param = torch.zeros(samples.shape[2:], dtype=samples.dtype, requires_grad=True)
    optimizer = varigrad.MSVAG([param], lr=lr, variance="batch", **arguments)
    trail = [param.detach().clone()]
    for gradients in samples:
        param.grad = gradients.mean(0)
        param.grad_variance = gradients.var(0) / len(gradients)
        param.grad_samples = len(gradients)
        optimizer.step()
        trail.append(param.detach().clone())
    return torch.stack(trail)


@WAYS
@pytest.mark.parametrize(("beta", "count"), [(0.9, 4), (0.5, 2), (0.0, 8)])
def test_the_variance_inside_the_mini_batch(flags, beta, count):
    samples = torch.stack([noise(seed) for seed in range(count)], dim=1) + 0.3
    ours = batch_run(samples, beta=beta, **flags)
    exact = torch.from_numpy(reference.msvag_minibatch(np.zeros(40), list(samples.numpy()), 0.1, beta=beta))
    assert relative_error(ours, exact) <= 1e-9
    mean, variance = samples[0].mean(0), samples[0].var(0) / count
    torch.testing.assert_close(ours[1], -0.1 * mean * mean**2 / (mean**2 + variance), rtol=1e-12, atol=0)


def test_one_sample_has_no_variance_inside_it():
    param = torch.zeros(3, requires_grad=True)
    optimizer = varigrad.MSVAG([param], variance="batch")
    param.grad, param.grad_variance, param.grad_samples = torch.ones(3), torch.ones(3), 1
    with pytest.raises(ValueError, match="grad_samples = 1, where at least 2 is accepted"):
        optimizer.step()
    assert param.abs().max() == 0


@WAYS
def test_adam_star_without_momentum_follows_the_sign_of_the_gradient(flags):
    gradients = noise(6)
    trail, _ = run(varigrad.AdamStar, gradients, 0.1, momentum=False, **flags)
    moved = trail.diff(dim=0)
    assert torch.equal(moved.sign(), -gradients.sign())


def test_the_source_of_the_variance_cannot_be_changed_between_two_steps():
    """The two keep different states; what there is must stay as it is."""
    param = torch.zeros(3, requires_grad=True)
    optimizer = varigrad.MSVAG([param])
    param.grad, param.grad_variance, param.grad_samples = torch.ones(3), torch.ones(3), 4
    optimizer.step()
    before = param.detach().clone()
    optimizer.param_groups[0]["variance"] = "batch"
    with pytest.raises(RuntimeError, match=r"keeps \['mean', 'variance'\] with these settings, .*'deviation'"):
        optimizer.step()
    assert torch.equal(param, before)
    assert optimizer.state[param]["step"] == 1
