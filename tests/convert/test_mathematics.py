"""What is exact about a converted state, and how it relates to what the optimizer itself would have learned."""

import math
import warnings

import numpy as np
import pytest
import torch

import varigrad
from varigrad import theory
from varigrad.convert.targets import TARGETS

from .jobs import LR, SIZE, adam, advance, average, close, converted, loaded, rho, state_of, stream

GAMMA, K, DELTA = 1e-8, 30.0, 5e-5
WITH_MEAN = [name for name in TARGETS if name != "ssd"]

# ---------------------------------------------------------------- the mathematics


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9), (0.95, 0.95)])
@pytest.mark.parametrize("steps", [1, 2, 30])
@pytest.mark.parametrize("to", WITH_MEAN)
def test_the_mean_is_the_debiased_average_of_the_gradients(to, steps, betas):
    gradients = stream(steps)
    optimizer, _ = adam(gradients, betas=betas)
    state = state_of(optimizer, to)
    close(state["mean"], average(gradients, betas[0]))
    assert state["step"] == steps
    if steps == 1 and "deviation" in state:
        assert not state["deviation"].any()  # one gradient shows no variance, not even a rounded one


def test_the_mean_of_adabayes_is_that_of_the_summed_gradient():
    gradients = stream()
    optimizer, param = adam(gradients)
    state = state_of(optimizer, varigrad.AdaBayes([param], batch_size=128))
    close(state["mean"], 128 * average(gradients, 0.9))


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
@pytest.mark.parametrize("steps", [2, 30, 300])
def test_vsgd_starts_with_adams_denominator_and_momentum(steps, betas):
    gradients = stream(steps)
    optimizer, _ = adam(gradients, betas=betas)
    excess = average(gradients**2, betas[1]) - average(gradients, betas[0]) ** 2
    state = state_of(optimizer)
    gain = state["systematic_var"] / (state["systematic_var"] + state["observation_var"])
    close(gain, np.full(SIZE, 1 - betas[0]))
    prior = steps**-0.9 * 2 * K * GAMMA / (1 + 2 * GAMMA + 2 * DELTA)
    close(gain * state["observation_var"], np.maximum(excess, 0) + (1 - betas[0]) * prior, rtol=1e-10)


@pytest.mark.parametrize("steps", [2, 30, 300])
def test_constant_vsgd_starts_with_adams_denominator_and_momentum(steps):
    gradients = stream(steps)
    optimizer, _ = adam(gradients)
    excess = average(gradients**2, 0.999) - average(gradients, 0.9) ** 2
    result = converted(optimizer, "constant_vsgd")
    close(result["param_groups"][0]["variance_ratio"], 0.9 / 0.1)
    prior = steps**-0.9 * 2 * GAMMA / (2 + 2 * GAMMA + 2 * DELTA)
    exact = 0.1 * prior + np.maximum(excess, 0)
    close(0.1 * result["state"][0]["observation_var"].numpy(), exact, rtol=1e-10)


@pytest.mark.parametrize("steps", [2, 30, 300])
def test_adaptive_vsgd_starts_with_adams_denominator_and_momentum(steps):
    gradients = stream(steps)
    optimizer, _ = adam(gradients)
    excess = average(gradients**2, 0.999) - average(gradients, 0.9) ** 2
    state = state_of(optimizer, "adaptive-vsgd")
    close(state["gain"], 1 - 0.9)
    close(state["gain"] * state["deviation"] ** 2, np.maximum(excess, 0), rtol=1e-10)
    assert state["pairs"] == state["agreement"] == 0


@pytest.mark.parametrize("kind", [varigrad.VSGD, varigrad.ConstantVSGD, varigrad.AdaptiveVSGD])
def test_the_next_step_is_adamws(kind):
    """For the gradient m both step along m, AdamW over √v after it has seen m², VSGD over √v before."""
    gradients = stream(400)
    adamw, param = adam(gradients, weight_decay=0.1)
    mean, square = average(gradients, 0.9), average(gradients**2, 0.999)
    after = average(np.vstack([gradients, mean])[:] ** 2, 0.999)
    before = square
    if kind is varigrad.AdaptiveVSGD:  # it too has seen it: m is no surprise, and lowers its variance
        before = mean**2 + (1 - 1 / 400) * (square - mean**2)
    ours, (twin,) = loaded(converted(adamw, kind), kind, param)
    advance(ours, twin, [mean])
    start = param.detach().clone()
    advance(adamw, param, [mean])
    kept = (1 - LR * 0.1) * start
    theirs, own = (param - kept).detach().numpy(), (twin - kept).detach().numpy()
    visible = square > mean**2  # where it is not, AdamW's step is longer than lr
    assert visible.mean() > 0.9
    close(own[visible] * np.sqrt(before)[visible], theirs[visible] * np.sqrt(after)[visible], rtol=1e-8)


@pytest.mark.parametrize("steps", [2, 5, 300])
@pytest.mark.parametrize("kind", [varigrad.VSGD, varigrad.ConstantVSGD])
def test_with_variances_of_the_noise_vsgd_stands_still(kind, steps):
    """A gradient as far from m as E says leaves v_o where it is, to the last digits."""
    gradients = stream(steps)
    adamw, param = adam(gradients)
    mean = average(gradients, 0.9)
    excess = np.maximum(average(gradients**2, 0.999) - mean**2, 0)
    surprise = excess * (1 + rho(0.9, steps)) / (1 - rho(0.9, steps))
    ours, (twin,) = loaded(converted(adamw, kind, variances="noise"), kind, param)
    before = ours.state[twin]["observation_var"].numpy().copy()
    advance(ours, twin, [mean + np.sqrt(surprise)])
    close(ours.state[twin]["observation_var"].numpy(), before, rtol=1e-11)
    assert before.min() > 0


@pytest.mark.parametrize(
    ("betas", "steps"), [((0.9, 0.9), 5), ((0.9, 0.9), 60), ((0.8, 0.99), 60), ((0.9, 0.999), 200)]
)
def test_the_variance_of_the_noise_is_found(betas, steps):
    """For independent gradients of variance s², (v_g + v_o) (1 - w/2) is s²: the calibrated value of VSGD."""
    deviation, size = 3.0, 40_000
    gradients = stream(steps, size, deviation=deviation)
    adamw, _ = adam(gradients, betas=betas)
    state = state_of(adamw, variances="noise")
    total = state["systematic_var"] + state["observation_var"]
    spread = total.std() / math.sqrt(size) / total.mean()
    # s² (1+ρ) is E; VSGD's own mean carries w/(2-w), AdamW's ρ, which differ while t is small.
    exact = deviation**2 * (1 + rho(betas[0], steps))
    assert abs(total.mean() / exact - 1) < 4 * spread + 1e-4
    if steps == 200:
        variances = [torch.from_numpy(state[name]) for name in ("systematic_var", "observation_var")]
        calibrated = theory.calibrated_observation_variance(*variances)
        assert abs(calibrated.mean() / deviation**2 - 1) < 4 * spread + 1e-4


@pytest.mark.parametrize("variances", ["step", "noise"])
@pytest.mark.parametrize("kind", [varigrad.VSGD, varigrad.ConstantVSGD])
def test_a_constant_gradient_is_followed_with_full_steps(kind, variances):
    gradients = np.tile([1.0, -2.0, 1e3, 0.0], (20, 1))
    adamw, param = adam(gradients, eps=1e-8, weight_decay=0.0)
    result = converted(adamw, kind, variances=variances, match_lr=False)
    ours, (twin,) = loaded(result, kind, param)
    advance(ours, twin, gradients[:1])
    moved = (twin - param).detach().numpy()
    np.testing.assert_allclose(moved, -LR * np.sign(gradients[0]), rtol=1e-6)


@pytest.mark.parametrize("to", WITH_MEAN)
def test_every_state_scales_with_the_gradient(to):
    """Means by c, deviations by |c|, squares and variances by c², but for what the prior adds; c is a power of two."""
    scale = 2.0**-4
    gradients = stream()
    (one, _), (other, _) = adam(gradients), adam(scale * gradients)
    if to == "adabayes":
        return  # its posterior variance is not a power of the gradient
    kind = TARGETS[to].kind
    prior = {"prior_strength": 1e-30} if "prior_strength" in kind.accepts else {}
    target = kind([torch.zeros(1)], **prior)
    before, after = state_of(one, target), state_of(other, target)
    power = {"mean": 1, "deviation": 1, "mean_square": 2, "systematic_var": 2, "observation_var": 2}
    for name in before:
        close(after[name], scale ** power.get(name, 0) * before[name], rtol=0 if not prior else 1e-15)


# ---------------------------------------------------------------- what the optimizer itself would have


@pytest.mark.parametrize("steps", [1, 2, 40])
@pytest.mark.parametrize("to", ["svag", "msvag", "adam-star", "msgd", "mssd", "ssd"])
def test_with_one_decay_the_state_is_what_the_optimizer_itself_would_have(to, steps):
    gradients = stream(steps)
    adamw, _ = adam(gradients, betas=(0.9, 0.9))
    kind = TARGETS[to].kind
    param = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
    own = kind([param])
    advance(own, param, gradients)
    state = state_of(adamw, to)
    assert state.keys() == own.state[param].keys()
    for name, value in own.state[param].items():
        np.testing.assert_allclose(state[name], value.numpy(), rtol=1e-9, atol=0 if name != "deviation" else 1e-7)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.9)])
def test_adabayes_fp_has_what_it_itself_would_have(betas):
    gradients = stream()
    adamw, _ = adam(gradients, betas=betas)
    param = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
    own = varigrad.AdaBayesFP([param], betas=betas)
    advance(own, param, gradients)
    result = converted(adamw, "adabayes-fp")
    assert result["param_groups"][0]["betas"] == betas
    for name, value in own.state[param].items():
        close(result["state"][0][name].numpy(), value.numpy())


def test_adabayes_fp_goes_on_as_adamw_where_sgd_lr_is_lr_over_twice_eps():
    gradients = stream(60)
    eps = 1e-8
    adamw, param = adam(gradients[:30], eps=eps, weight_decay=0.1)
    target = varigrad.AdaBayesFP([param], lr=LR, sgd_lr=LR / (2 * eps))
    ours, (twin,) = loaded(converted(adamw, target), varigrad.AdaBayesFP, param)
    start = param.detach().clone()
    advance(ours, twin, gradients[30:])
    advance(adamw, param, gradients[30:])
    np.testing.assert_allclose((twin - start).detach(), (param - start).detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("transition", ["exact", "euler"])
@pytest.mark.parametrize("settings", [{}, {"batch_size": 128, "sgd_lr": 2.0}, {"sgd_lr": 1e3}])
def test_adabayes_starts_where_a_steady_gradient_would_leave_it(settings, transition):
    gradients = np.tile(stream(1), (50, 1))
    adamw, param = adam(gradients)
    target = varigrad.AdaBayes([param], lr=LR, transition=transition, **settings)
    ours, (twin,) = loaded(converted(adamw, target), varigrad.AdaBayes, param)
    before = ours.state[twin]["posterior_var"].numpy().copy()
    advance(ours, twin, gradients[:1])
    close(ours.state[twin]["posterior_var"].numpy(), before, rtol=1e-10)


def test_adabayes_begins_at_the_variance_of_the_sgd_limit_where_the_learning_rate_is_zero():
    adamw, param = adam(stream())
    adamw.param_groups[0].update(lr=0.0, initial_lr=0.02)
    result = converted(adamw, "adabayes")
    assert (result["state"][0]["posterior_var"] == -1).all()
    assert result["param_groups"][0]["reference_lr"] == 0.02
    ours, (twin,) = loaded(result, varigrad.AdaBayes, param)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        advance(ours, twin, stream(1))
    assert torch.equal(twin, param)


def test_amsgrad_does_not_change_the_statistics():
    gradients = stream() * np.linspace(3, 1, 30)[:, None]  # so that the maximum is not the last
    (plain, _), (maximal, _) = adam(gradients), adam(gradients, amsgrad=True)
    for to in TARGETS:
        ours, theirs = (converted(optimizer, to, match_lr=None)["state"][0] for optimizer in (maximal, plain))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    (ours, theirs) = (converted(o, "mssd")["param_groups"][0]["lr"] for o in (maximal, plain))
    assert ours < theirs


@pytest.mark.parametrize("to", TARGETS)
def test_a_job_that_climbs_goes_on_climbing(to):
    gradients = stream()
    kind = TARGETS[to].kind
    moved = []
    for sign in (1, -1):
        adamw, param = adam(sign * gradients[:20], maximize=sign < 0)
        result = converted(adamw, to)
        assert result["param_groups"][0]["maximize"] is (sign < 0)
        ours, (twin,) = loaded(result, kind, param)
        advance(ours, twin, sign * gradients[20:])
        moved.append(twin.detach())
    assert torch.equal(*moved)


# ---------------------------------------------------------------- learning rates


@pytest.mark.parametrize("match_lr", [None, True])
@pytest.mark.parametrize("to", ["mssd", "ssd", "msgd"])
def test_matched_rates_give_steps_of_adamws_root_mean_square(to, match_lr):
    gradients = stream()
    adamw, _ = adam(gradients, eps=1e-3, weight_decay=0.1)
    adamw.param_groups[0]["initial_lr"] = 5 * LR
    group = converted(adamw, to, match_lr=match_lr)["param_groups"][0]
    mean = average(gradients, 0.9)
    theirs = mean / (np.sqrt(average(gradients**2, 0.999)) + 1e-3)
    ours = mean if to == "msgd" else np.sign(mean)
    factor = np.sqrt((theirs**2).mean() / (ours**2).mean())
    close(group["lr"], factor * LR)
    close(group["initial_lr"], factor * 5 * LR)
    close(group["weight_decay"] * group["lr"], 0.1 * LR)


@pytest.mark.parametrize("steps", [3, 400])
@pytest.mark.parametrize("to", [name for name, target in TARGETS.items() if not target.same_rate])
def test_matched_rates_are_what_the_optimizer_then_steps_with(to, steps):
    """Measured on the step itself, for the gradient m."""
    gradients = stream(steps)
    adamw, param = adam(gradients)
    mean = average(gradients, 0.9)
    theirs = mean / np.sqrt(average(gradients**2, 0.999))
    for variances in ("step", "noise") if TARGETS[to].for_noise else ("step",):
        ours, (twin,) = loaded(converted(adamw, to, match_lr=True, variances=variances), TARGETS[to].kind, param)
        kept = (1 - LR * 0.01) * twin.detach()
        advance(ours, twin, [mean])
        moved = (twin.detach() - kept).numpy()
        close(np.sqrt((moved**2).mean()), LR * np.sqrt((theirs**2).mean()), rtol=1e-9)


def test_rates_are_kept_where_the_method_sees_to_the_step_itself():
    adamw, _ = adam(stream())
    adamw.param_groups[0]["initial_lr"] = 0.5
    for to, target in TARGETS.items():
        group = converted(adamw, to)["param_groups"][0]
        keeps = to in ("vsgd", "constant-vsgd", "adaptive-vsgd", "adabayes", "adabayes-fp")
        assert (group["lr"] == LR) == (group["initial_lr"] == 0.5) == (group["weight_decay"] == 0.01) == keeps
        assert converted(adamw, to, match_lr=False)["param_groups"][0]["lr"] == LR
        if target.for_noise:
            assert converted(adamw, to, variances="noise")["param_groups"][0]["lr"] < LR
            assert converted(adamw, to, variances="noise", match_lr=False)["param_groups"][0]["lr"] == LR


def test_a_group_that_has_not_moved_keeps_its_rate():
    param = torch.zeros(2, requires_grad=True)
    adamw = torch.optim.AdamW([param], lr=LR)
    result = converted(adamw, "msgd")
    assert result["state"] == {}
    assert result["param_groups"][0]["lr"] == LR
    param.grad = torch.zeros(2)
    adamw.step()
    assert converted(adamw, "msgd")["param_groups"][0]["lr"] == LR


def test_gradients_that_are_small_against_the_prior_are_told():
    adamw, param = adam(1e-6 * stream(), eps=1e-12)
    with pytest.warns(UserWarning, match=r"group 0 are small against VSGD's prior.* 0\.0\d+ times as long"):
        converted(adamw, "vsgd")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted(adamw, varigrad.VSGD([param], prior_strength=1e-20))
        converted(adam(1e-2 * stream())[0], "vsgd")
        converted(adamw, "adam-star")
        # A gradient that has just grown makes AdamW's steps longer than lr, which VSGD's never are.
        converted(adam(np.vstack([1e-3 * stream(3000), np.full((1, SIZE), 10.0)]))[0], "vsgd")


def test_a_weight_without_a_gradient_does_not_hide_the_others_from_the_rates():
    """Without eps AdamW's step of it is 0/0."""
    gradients = stream()
    padded = np.hstack([gradients, np.zeros((30, 2))])
    rates = [converted(adam(g)[0], "mssd")["param_groups"][0]["lr"] for g in (gradients, padded)]
    assert math.isclose(*rates)


@pytest.mark.parametrize("to", ["vsgd", "constant-vsgd"])
def test_variances_are_bounded_as_in_the_rules(to):
    adamw, param = adam(np.full((2, SIZE), [[1e18], [2e19]]), dtype=torch.float32)
    assert state_of(adamw, to)["observation_var"].max() == np.float32(1e37)
    ours, (twin,) = loaded(converted(adamw, to), TARGETS[to].kind, torch.zeros_like(param))
    advance(ours, twin, stream(3))
    assert twin.isfinite().all()
