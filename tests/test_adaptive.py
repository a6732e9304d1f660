"""AdaptiveVSGD: the gain that it learns is the best one, forgets its start, and does not know the loss's scale."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import varigrad
from tests import reference
from varigrad.lab.data import Digits
from varigrad.lab.models.mlp import mlp
from varigrad.theory import local_level_gain

from .stepping import relative_error, run

WAYS = pytest.mark.parametrize("flags", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
FORMS = pytest.mark.parametrize("nesterov", [False, True])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def stream(steps=100, size=60, seed=0, zeros=0.0, drift=0.3):
    """Gradients that drift and are observed with noise, some of them zero."""
    random = np.random.default_rng(seed)
    level = np.cumsum(drift * random.normal(size=(steps, size)), axis=0)
    gradients = level + random.normal(size=(steps, size))
    return torch.from_numpy(np.where(random.random((steps, size)) < zeros, 0.0, gradients))


# ---------------------------------------------------------------- the rule


@WAYS
@FORMS
@pytest.mark.parametrize("zeros", [0.1, 0.9])
def test_gradients_of_zero_are_left_out_as_the_transcription_does(flags, nesterov, zeros):
    gradients = stream(zeros=zeros, steps=300)
    ours, state = run(varigrad.AdaptiveVSGD, gradients, nesterov=nesterov, **flags)
    start = np.zeros(gradients.shape[1])
    exact, belief = reference.adaptive_vsgd(start, list(gradients.numpy()), 1e-2, nesterov=nesterov, return_state=True)
    assert relative_error(ours, torch.from_numpy(exact)) <= 1e-11
    np.testing.assert_allclose(state["mean"], belief["mean"], rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(state["deviation"].square(), belief["observation_variance"], rtol=1e-10, atol=0)
    assert state["gain"].item() != 0.5


def test_the_first_step_is_that_of_sign_descent_and_the_second_fears_half_the_sample_variance():
    """A mean of two gradients has half the variance of one, whose unbiased estimate is half their squared distance."""
    gradients = torch.tensor([[3.0, -1.0, 0.0], [4.0, 2.0, 0.0]], dtype=torch.float64)
    trail, state = run(varigrad.AdaptiveVSGD, gradients)
    assert trail[1].tolist() == [-1e-2, 1e-2, 0.0]
    assert state["mean"].tolist() == [3.5, 0.5, 0.0]
    variance = (gradients[1] - gradients[0]) ** 2 / 2
    torch.testing.assert_close(state["deviation"] ** 2, variance)
    step = state["mean"] / (state["mean"] ** 2 + variance / 2).sqrt()
    torch.testing.assert_close((trail[1] - trail[2])[:2], 1e-2 * step[:2])


def test_the_sign_of_the_deviation_is_that_of_the_last_innovation():
    """So it takes no memory; a gradient of zero leaves it."""
    gradients = stream(30, size=1000, zeros=0.3)
    wanted, mean = torch.zeros(1000, dtype=torch.float64), torch.zeros(1000, dtype=torch.float64)

    def compare(state):
        nonlocal wanted, mean
        gradient = gradients[int(state["step"]) - 1]
        wanted = torch.where(gradient != 0, gradient - mean, wanted)
        mean = state["mean"].clone()
        assert torch.equal(state["deviation"].signbit(), wanted < 0)

    run(varigrad.AdaptiveVSGD, gradients, each=compare, foreach=False)


@WAYS
def test_the_statistics_count_pairs_of_signs(flags):
    """A step after the noise is known, every element with a gradient makes a pair; those without make none."""
    gradients = stream(10, size=500)
    gradients[9, :200] = 0.0
    _, state = run(varigrad.AdaptiveVSGD, gradients, **flags)
    assert state["pairs"] == 300
    assert -300 <= state["agreement"] <= 300


@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16], ids=str)
@WAYS
def test_low_precision_state_keeps_the_signs(flags, state_dtype):
    """Rounding never changes a sign, so that the gain learned with half the memory is nearly the same."""
    gradients = stream(300, size=4000).float()
    _, state = run(varigrad.AdaptiveVSGD, gradients, state_dtype=state_dtype, **flags)
    expected = reference.adaptive_vsgd(np.zeros(4000), list(gradients.double().numpy()), 1e-2, return_state=True)[1]
    assert state["gain"].item() == pytest.approx(expected["gain"].item(), rel=1e-5 if state_dtype is None else 0.01)


# ---------------------------------------------------------------- scale, bounds


@WAYS
@FORMS
@DTYPES
@pytest.mark.parametrize("power", [-7, 7])
def test_a_loss_multiplied_by_a_power_of_two_trains_alike_to_the_bit(flags, nesterov, dtype, power):
    """A whole training, in which the gradients depend on the weights; VSGD loses up to 22 points of accuracy here."""
    ends = []
    for factor in (1.0, 2.0**power):
        torch.manual_seed(0)
        model = mlp(64, 16, 10).to(dtype)
        optimizer = varigrad.AdaptiveVSGD(model.parameters(), lr=1e-2, weight_decay=0.1, nesterov=nesterov, **flags)
        for images, labels in digits(60, dtype):
            optimizer.zero_grad()
            (factor * torch.nn.functional.cross_entropy(model(images), labels)).backward()
            optimizer.step()
        gains = [optimizer.state[param]["gain"] for param in model.parameters()]
        ends.append([*(param.detach() for param in model.parameters()), *gains])
    assert all(map(torch.equal, *ends))


@FORMS
@given(exponent=st.integers(-60, 60), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_gradients_of_any_size_are_followed_alike(nesterov, exponent, seed):
    """Far beyond where their squares are numbers in float32."""
    gradients = stream(20, seed=seed, zeros=0.1).float()
    plain, _ = run(varigrad.AdaptiveVSGD, gradients, nesterov=nesterov)
    scaled, _ = run(varigrad.AdaptiveVSGD, 2.0**exponent * gradients, nesterov=nesterov)
    assert torch.equal(plain, scaled)


@FORMS
@DTYPES
@given(
    seed=st.integers(0, 999), lr=st.floats(1e-5, 10.0), spread=st.floats(0.0, 20.0), zeros=st.sampled_from([0.0, 0.5])
)
@settings(max_examples=40, deadline=None)
def test_no_weight_moves_by_more_than_the_learning_rate(nesterov, dtype, seed, lr, spread, zeros):
    """Each from zero anew, where a displacement has all its digits; with gradients of all sizes side by side."""
    gradients = stream(15, seed=seed, zeros=zeros).to(dtype)
    gradients = gradients * 10.0 ** (spread * (torch.rand(gradients.shape, dtype=dtype) - 0.5))
    param = torch.zeros(gradients.shape[1], dtype=dtype, requires_grad=True)
    optimizer = varigrad.AdaptiveVSGD([param], lr=lr, nesterov=nesterov)
    for gradient in gradients:
        param.data.zero_()
        param.grad = gradient.clone()
        optimizer.step()
        assert (param.abs() <= torch.tensor(lr, dtype=dtype)).all()


# ---------------------------------------------------------------- what is learned


@pytest.mark.parametrize(("q", "r"), [(0.01, 1.0), (0.1, 1.0), (1.0, 1.0), (1e-3, 1.0), (4.0, 1e3), (2.0, 0.5)])
def test_the_gain_of_a_local_level_is_found(q, r):
    """Random walks with steps of variance q, observed with noise of variance r: the best gain within 2 %."""
    generator, size = torch.Generator().manual_seed(0), 8_000
    level = torch.zeros(size, dtype=torch.float64)
    param = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    optimizer = varigrad.AdaptiveVSGD([param], lr=1e-3)
    gains = []
    best = local_level_gain(q, r)
    for _ in range(int(20 / best) + 1000):
        level += math.sqrt(q) * torch.randn(size, generator=generator, dtype=torch.float64)
        param.grad = level + math.sqrt(r) * torch.randn(size, generator=generator, dtype=torch.float64)
        optimizer.step()
        gains.append(optimizer.state[param]["gain"].item())
    assert np.mean(gains[-100:]) == pytest.approx(best, rel=0.02)
    # (1-w) E[e²] is then r, so that the belief about the noise is right too.
    assert optimizer.state[param]["deviation"].square().mean().item() == pytest.approx(r, rel=0.05)


def test_seldom_used_weights_do_not_drive_the_gain_to_its_ceiling():
    """Rows of an embedding that a batch does not use: their innovations are -m, and agree for as long as m lasts."""
    gradients = stream(400, size=2000, drift=0.0, zeros=0.95)
    _, state = run(varigrad.AdaptiveVSGD, gradients)
    assert state["gain"] < 0.1  # nothing drifts


def test_a_tensor_of_one_element_learns_slowly():
    """One pair of signs proves little: in a step its logit moves by at most 0.3 / 11."""
    gains = [0.5]
    run(varigrad.AdaptiveVSGD, stream(200, size=1), each=lambda state: gains.append(state["gain"].item()))
    logits = np.log(gains) - np.log1p(-np.array(gains))
    assert 0 < np.abs(np.diff(logits)).max() <= 0.3 / 11 * (1 + 1e-9)


def digits(steps, dtype=torch.float32):
    data = Digits().load(None)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(data.train), (64,), generator=generator)
        yield data.train.images[rows].to(dtype) / 16, data.train.labels[rows]


def learned_gains(start: float, steps: int) -> torch.Tensor:
    torch.manual_seed(0)
    model = mlp(64, 128, 64, 10)

    class Started(varigrad.AdaptiveVSGD):
        start_gain = start

    optimizer = Started(model.parameters(), lr=1e-3)
    for images, labels in digits(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return torch.stack([optimizer.state[param]["gain"] for param in model.parameters() if param.ndim > 1])


def test_the_start_is_forgotten():
    """On real data, after 1,000 steps, the gains of the weight matrices from three starts are within 10 %."""
    ends = torch.stack([learned_gains(start, 1000) for start in (0.02, 0.1, 0.5)])
    assert (ends.amax(0) / ends.amin(0) <= 1.1).all()
    assert ends.std(dim=1).min() > 0.01  # not because they have all run into a bound


@pytest.mark.parametrize("way", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_a_tensor_without_elements_has_nothing_to_learn_from(way):
    """As a rank sees it that holds no part of a parameter."""
    weight = torch.zeros(0, 3, requires_grad=True)
    optimizer = varigrad.AdaptiveVSGD([weight], **way)
    for _ in range(3):
        weight.grad = torch.zeros(0, 3)
        optimizer.step()
    assert optimizer.state[weight]["gain"] == 0.5
    assert optimizer.state[weight]["pairs"] == 0
