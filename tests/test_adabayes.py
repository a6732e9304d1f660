"""Limits and identities of AdaBayes and AdaBayesFP: AdamW on one side, SGD on the other."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import varigrad
from tests.stepping import noise, relative_error, run

WAYS = pytest.mark.parametrize("flags", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)


@WAYS
def test_fixed_point_is_adamw_where_the_sgd_limit_is_far_away(flags):
    start = noise(1, steps=1)[0]
    ours, _ = run(varigrad.AdaBayesFP, noise(), 1e-3, start, sgd_lr=1e12, weight_decay=0.1, **flags)
    adamw, _ = run(torch.optim.AdamW, noise(), 1e-3, start, eps=0.0, weight_decay=0.1)
    assert (ours - adamw).abs().max() <= 1e-12


@pytest.mark.parametrize("sgd_lr", [1e-1, 1e2, 1e5])
def test_the_way_to_adamw_is_of_first_order(sgd_lr):
    """A step is short of AdamW's by lr / (2 sgd_lr |g|); an eps of lr / (2 sgd_lr) takes that first order away."""
    gradients = noise(5)
    gradients = gradients.sign() * gradients.abs().clamp(min=0.1)
    ours, _ = run(varigrad.AdaBayesFP, gradients, 1e-3, sgd_lr=sgd_lr)
    plain, _ = run(torch.optim.AdamW, gradients, 1e-3, eps=0.0, weight_decay=0.0)
    corrected, _ = run(torch.optim.AdamW, gradients, 1e-3, eps=1e-3 / (2 * sgd_lr), weight_decay=0.0)
    distance = relative_error(ours, plain)
    first_order = 1e-3 / (2 * sgd_lr)
    assert first_order / 3 <= distance <= first_order / 0.1
    assert relative_error(ours, corrected) <= 0.1 * distance


@WAYS
def test_fixed_point_does_not_depend_on_the_batch_size(flags):
    """Not by a bit, for a power of two; with eps it does."""
    few, many = (run(varigrad.AdaBayesFP, noise(), batch_size=b, **flags)[0] for b in (1, 4096))
    assert torch.equal(few, many)
    few, many = (run(varigrad.AdaBayesFP, noise(), batch_size=b, eps=1.0, **flags)[0] for b in (1, 4096))
    assert relative_error(few, many) > 1e-3


@WAYS
@pytest.mark.parametrize(("scale", "bound"), [(1e-5, 1e-5), (1e-8, 1e-11)])
def test_vanishing_gradients_make_the_fixed_point_sgd_with_momentum(flags, scale, bound):
    ours, _ = run(varigrad.AdaBayesFP, noise(scale=scale), 1e-3, sgd_lr=0.1, **flags)
    sgd, _ = run(varigrad.MSGD, noise(scale=scale), 0.1)
    assert relative_error(ours, sgd) <= bound


@WAYS
def test_vanishing_gradients_make_the_filter_sgd_with_momentum(flags):
    """Exactly so with the exact transition; Eq. 17b as printed keeps its offset of η²/4σ²."""
    gradients, arguments = noise(scale=1e-9), {"sgd_lr": 0.1, "batch_size": 128, **flags}
    sgd, _ = run(varigrad.MSGD, gradients, 0.1)
    exact, _ = run(varigrad.AdaBayes, gradients, 1e-3, **arguments)
    euler, _ = run(varigrad.AdaBayes, gradients, 1e-3, transition="euler", **arguments)
    assert relative_error(exact, sgd) <= 1e-12
    assert 1e-6 < relative_error(euler, sgd) < 1e-3


@WAYS
@given(
    gradient=st.floats(1e-3, 1e2),
    lr=st.floats(1e-3, 1e-1),
    sgd_lr=st.floats(1e-2, 1.0),
    batch=st.sampled_from([1, 128]),
)
@settings(max_examples=20, deadline=None)
def test_a_constant_gradient_leads_to_the_fixed_point(flags, gradient, lr, sgd_lr, batch):
    """η² L² + (q - 1 - η² g²) L - q g² = 0 for L = 1/v and Eq. 17b, whose q = (1 - η²/2σ²)²."""
    x = lr**2 * batch / sgd_lr
    if x >= 1:
        return
    g, q = batch * gradient, (1 - x / 2) ** 2
    b = q - 1 - lr**2 * g**2
    exact = (-b + math.sqrt(b * b + 4 * lr**2 * q * g**2)) / (2 * lr**2)
    steps = min(20_000, int(40 / max(x, lr * g)) + 50)
    # The variance alone: from σ² it relaxes at the rate of the larger of the two time scales.
    _, state = run(
        varigrad.AdaBayes,
        torch.full((min(steps, 3000), 1), gradient, dtype=torch.float64),
        lr,
        sgd_lr=sgd_lr,
        batch_size=batch,
        transition="euler",
        **flags,
    )
    if steps <= 3000:
        assert 1 / state["posterior_var"].item() == pytest.approx(exact, rel=1e-9)


def test_the_posterior_is_never_wider_than_the_prior():
    widest = []
    run(varigrad.AdaBayes, noise(2), 1e-2, sgd_lr=0.1, each=lambda s: widest.append(s["posterior_var"].max().item()))
    assert max(widest) <= 0.1


@WAYS
def test_the_sgd_limit_follows_the_schedule(flags):
    """Tiny gradients: SGD's rate falls with lr, in AdaBayesFP at once, in AdaBayes on the time scale σ²/η²."""
    gradients = torch.full((2, 3), 1e-9, dtype=torch.float64)
    for optimizer_class, drop in ((varigrad.AdaBayesFP, 0.1), (varigrad.AdaBayes, 1.0)):
        steps = run(optimizer_class, gradients, [1e-3, 1e-4], sgd_lr=0.1, **flags)[0].diff(dim=0)
        assert (steps[1] / steps[0]).tolist() == pytest.approx([drop] * 3, rel=1e-3)


@WAYS
@pytest.mark.parametrize("optimizer_class", [varigrad.AdaBayes, varigrad.AdaBayesFP])
def test_a_learning_rate_of_zero_leaves_weight_and_variance_alone(flags, optimizer_class):
    """The authors' programs divide by zero there. A warm-up from zero must begin at σ², not at nothing."""
    gradients = noise(scale=0.1, steps=6)
    param = torch.zeros(40, dtype=torch.float64, requires_grad=True)
    optimizer = optimizer_class([param], lr=1e-3, sgd_lr=0.1, **flags)
    variances = []
    for gradient, rate in zip(gradients, [0.0, 0.0, 1e-3, 1e-3, 0.0, 0.0], strict=True):
        optimizer.param_groups[0]["lr"] = rate
        before = param.detach().clone()
        param.grad = gradient
        optimizer.step()
        variances.append(optimizer.state[param].get("posterior_var", torch.zeros(())).clone())
        assert torch.equal(param, before) == (rate == 0.0)
    assert torch.equal(variances[5], variances[3])
    if optimizer_class is varigrad.AdaBayes:
        first = 1 / (1 / 0.1 + gradients[2] ** 2)
        torch.testing.assert_close(variances[2], first, rtol=1e-6, atol=0)


def test_the_rate_that_sgd_lr_belongs_to_survives_a_checkpoint():
    def make(lr):
        return torch.zeros(3, requires_grad=True), lr

    (param, lr), (twin, other) = make(1e-3), make(0.5)
    first = varigrad.AdaBayes([param], lr=lr)
    param.grad = torch.ones(3)
    first.step()
    first.param_groups[0]["lr"] = 1e-4
    second = varigrad.AdaBayes([twin], lr=other)
    second.load_state_dict(first.state_dict())
    twin.data.copy_(param)
    for one, weight in ((first, param), (second, twin)):
        weight.grad = torch.ones(3)
        one.step()
    assert torch.equal(param, twin)
    assert second.param_groups[0]["reference_lr"] == 1e-3


def test_a_run_begun_at_zero_takes_its_first_rate_for_the_reference():
    """And says so, because sgd_lr is then that of a warm-up's first step."""
    param = torch.zeros(3, requires_grad=True)
    param.grad = torch.ones(3)
    optimizer = varigrad.AdaBayes([param], lr=0.0)
    optimizer.step()
    group = optimizer.param_groups[0]
    group["lr"] = 1e-3
    with pytest.warns(UserWarning, match="sgd_lr=0.1 is taken to belong to lr=0.001"):
        optimizer.step()
    group["lr"] = 2e-3
    optimizer.step()
    assert group["reference_lr"] == 1e-3


@pytest.mark.filterwarnings("error")
def test_the_rate_that_sgd_lr_belongs_to_can_be_said():
    param = torch.zeros(3, requires_grad=True)
    optimizer = varigrad.AdaBayesFP([param], lr=0.0, reference_lr=1e-2)
    for rate in (0.0, 1e-3):
        param.grad = torch.full((3,), 1e-12)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((3,), -0.1 * 0.1 * 1e-12), rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match=r"reference_lr = 0\.0 is not accepted"):
        varigrad.AdaBayesFP([param], reference_lr=0.0)


@pytest.mark.parametrize("where", ["constructor", "group", "later"])
def test_the_euler_transition_refuses_to_diverge(where):
    """From η² = 4σ² on the factor (1 - η²/2σ²)² is at least one; the exact transition is stable always."""
    param = torch.zeros(3, requires_grad=True)
    param.grad = torch.ones(3)
    bad = {"lr": 0.1, "sgd_lr": 0.1, "batch_size": 40, "transition": "euler"}
    later = varigrad.AdaBayes([param], **{**bad, "lr": 0.05})
    later.param_groups[0]["lr"] = 0.25
    refused = {
        "constructor": lambda: varigrad.AdaBayes([param], **bad),
        "group": lambda: varigrad.AdaBayes([{"params": [param], **bad}]),
        "later": later.step,
    }[where]
    with pytest.raises(ValueError, match=r"lr.* is not accepted: with transition='euler', lr² / σ² must be < 4"):
        refused()
    assert param.abs().max() == 0


def test_the_exact_transition_is_stable_where_euler_diverges():
    gradients = torch.zeros(300, 3, dtype=torch.float64)
    _, state = run(varigrad.AdaBayes, gradients, 0.1, sgd_lr=0.1, batch_size=4000)
    assert state["posterior_var"].tolist() == pytest.approx([0.1 / 4000] * 3, rel=1e-12)


def test_a_spike_runs_away_in_the_filter_and_not_at_the_fixed_point():
    """About β/(1-β) η² g: what the docstring warns of."""
    gradients = torch.zeros(2000, 1, dtype=torch.float64)
    gradients[100] = 1e5
    filtered, _ = run(varigrad.AdaBayes, gradients, 1e-3, sgd_lr=0.1)
    fixed, _ = run(varigrad.AdaBayesFP, gradients, 1e-3, sgd_lr=0.1)
    assert filtered[-1].abs().item() == pytest.approx(9 * 1e-6 * 1e5, rel=0.1)
    assert fixed[-1].abs().item() < 0.02
