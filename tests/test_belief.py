"""What optimizers believe about gradients: against the papers' sums in float64, and against known gradients."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

import varigrad
from tests import reference
from tests.stepping import noise, run
from varigrad.engine.optimizer import RuleOptimizer
from varigrad.svag import averaged

STEPS = 23
GRADIENTS = noise(seed=3, scale=0.3, steps=STEPS, size=30) + 0.2
FIELDS = ("mean", "variance", "observation_variance", "systematic_variance", "mean_noise", "gain", "snr")

KNOWS_VARIANCE = (varigrad.VSGD, varigrad.ConstantVSGD, varigrad.AdaBayesFP, varigrad.SVAG, varigrad.MSVAG)
KNOWS_VARIANCE += (varigrad.AdamStar, varigrad.AdaptiveVSGD)
KNOWS_MEAN = (varigrad.AdaBayes, varigrad.MSGD, varigrad.MSSD)


def stepped(kind: type[torch.optim.Optimizer], gradients: Tensor = GRADIENTS, lr: float = 0.0, **arguments):
    """An optimizer after these gradients, and its parameter."""
    weight = torch.zeros_like(gradients[0]).requires_grad_()
    optimizer = kind([weight], lr=lr, **arguments)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return optimizer, weight


def weights_of_average(beta: float, steps: int = STEPS) -> Tensor:
    """The debiased average's weights, oldest first, from the sum they are defined by (Balles and Hennig, Eq. 57)."""
    weights = torch.tensor([(1 - beta) * beta ** (steps - s) for s in range(1, steps + 1)], dtype=torch.float64)
    return weights / weights.sum()


def moments(beta1: float, beta2: float, gradients: Tensor = GRADIENTS) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, the variance of one gradient (Eq. 22) and that of the mean, by plain sums over all gradients."""
    first, second = weights_of_average(beta1, len(gradients)), weights_of_average(beta2, len(gradients))
    mean = (first[:, None] * gradients).sum(0)
    rho = first.square().sum()
    variance = ((second[:, None] * gradients**2).sum(0) - mean**2).clamp(min=0) / (1 - rho)
    return mean, variance, rho * variance


def close(ours: Tensor, exact: Tensor) -> bool:
    return torch.allclose(ours, torch.as_tensor(exact), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [varigrad.SVAG, varigrad.MSVAG, varigrad.AdamStar])
@pytest.mark.parametrize("beta", [0.9, 0.5])
def test_variance_adapted_methods_believe_eq_22(kind, beta):
    optimizer, weight = stepped(kind, beta=beta)
    belief = optimizer.belief(weight)
    mean, variance, left = moments(beta, beta)
    assert close(belief.mean, mean)
    assert close(belief.observation_variance, variance)
    assert close(belief.variance, left)
    assert close(belief.mean_noise, left)
    assert close(belief.snr, mean.abs() / variance.sqrt())
    assert belief.systematic_variance is None


def test_a_momentum_that_a_scheduler_wrote_is_the_decay_believed_in():
    optimizer, weight = stepped(varigrad.MSVAG, beta=0.3)
    optimizer.param_groups[0]["momentum"] = 0.8  # as OneCycleLR does
    optimizer.state.clear()
    for gradient in GRADIENTS:
        weight.grad = gradient.clone()
        optimizer.step()
    assert close(optimizer.belief(weight).observation_variance, moments(0.8, 0.8)[1])


def test_msvag_with_the_variance_of_the_batch_believes_eq_67():
    weight = torch.zeros(30, dtype=torch.float64, requires_grad=True)
    optimizer = varigrad.MSVAG([weight], lr=0.0, variance="batch")
    spreads = noise(seed=5, steps=STEPS, size=30).square()
    for gradient, spread in zip(GRADIENTS, spreads, strict=True):
        weight.grad, weight.grad_variance, weight.grad_samples = gradient.clone(), spread.clone(), 8
        optimizer.step()
    belief = optimizer.belief(weight)
    variance = (weights_of_average(0.9**2)[:, None] * spreads).sum(0)
    assert close(belief.observation_variance, variance)
    assert close(belief.variance, weights_of_average(0.9).square().sum() * variance)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.9), (0.5, 0.7)])
@pytest.mark.parametrize(
    "kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, varigrad.AdaBayesFP]
)
def test_two_moments_amount_to_a_variance_for_any_two_decays(kind, betas):
    arguments = {"reference_lr": 1e-3} if kind is varigrad.AdaBayesFP else {}
    optimizer, weight = stepped(kind, betas=betas, **arguments)
    belief = varigrad.belief_of(optimizer, weight)
    mean, variance, left = moments(*betas)
    assert close(belief.mean, mean)
    assert close(belief.observation_variance, variance)
    assert close(belief.variance, left)


def test_rmsprop_believes_something_if_it_is_centered():
    optimizer, weight = stepped(torch.optim.RMSprop, alpha=0.8, centered=True)
    belief = varigrad.belief_of(optimizer, weight)
    mean, variance, left = moments(0.8, 0.8)
    assert close(belief.mean, mean)
    assert close(belief.observation_variance, variance)
    assert close(belief.variance, left)
    optimizer, weight = stepped(torch.optim.RMSprop)
    assert all(getattr(varigrad.belief_of(optimizer, weight), field) is None for field in FIELDS)


def test_vsgd_believes_its_posterior_and_a_calibrated_noise():
    """The variance of what is observed is (v_g + v_o)(1 - w/2), that of the mean's posterior Eq. 16."""
    optimizer, weight = stepped(varigrad.VSGD)
    belief = optimizer.belief(weight)
    _, state = reference.vsgd(np.zeros(30), list(GRADIENTS.numpy()), 0.0, return_state=True)
    v_g, v_o = (torch.tensor(state[name]) for name in ("systematic_variance", "observation_variance"))
    gain = v_g / (v_g + v_o)
    assert close(belief.mean, state["mean"])
    assert close(belief.variance, 1 / (1 / v_g + 1 / v_o))
    assert close(belief.systematic_variance, v_g)
    assert close(belief.observation_variance, (v_g + v_o) * (1 - gain / 2))
    assert close(belief.mean_noise, gain / (2 - gain) * belief.observation_variance)
    assert close(belief.gain, gain)


def test_constant_vsgd_believes_the_same_with_its_constant_ratio():
    optimizer, weight = stepped(varigrad.ConstantVSGD, variance_ratio=9.0)
    belief = optimizer.belief(weight)
    _, state = reference.constant_vsgd(
        np.zeros(30), list(GRADIENTS.numpy()), 0.0, variance_ratio=9.0, return_state=True
    )
    v_g, v_o = (torch.tensor(state[name]) for name in ("systematic_variance", "observation_variance"))
    assert close(belief.mean, state["mean"])
    assert close(belief.variance, 0.1 * v_o)
    assert close(belief.systematic_variance, v_g)
    assert close(belief.observation_variance, v_o + v_g / 2)
    assert close(belief.mean_noise, belief.observation_variance / 19)


def test_adaptive_vsgd_believes_in_one_gain_and_in_the_drift_that_it_is_best_for():
    optimizer, weight = stepped(varigrad.AdaptiveVSGD)
    belief = optimizer.belief(weight)
    _, state = reference.adaptive_vsgd(np.zeros(30), list(GRADIENTS.numpy()), 0.0, return_state=True)
    v, gain = torch.tensor(state["observation_variance"]), float(state["gain"])
    assert close(belief.mean, state["mean"])
    assert close(belief.gain, torch.full((30,), gain, dtype=torch.float64))
    assert close(belief.observation_variance, v)
    assert close(belief.variance, gain * v)
    q = belief.systematic_variance  # for which the filter at rest has that gain
    assert close((torch.sqrt(q**2 + 4 * q * v) - q) / (2 * v), belief.gain)
    assert close(belief.mean_noise, gain / (2 - gain) * v)


@pytest.mark.parametrize("samples", [1, 2, 32])
def test_vsgd_on_single_samples_still_believes_in_the_variance_of_the_batch(samples):
    """Its two variances are those of single samples then, M times as large."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros(1000, requires_grad=True)
    optimizer = varigrad.VSGD([weight], lr=0.0, variance="batch")
    for _ in range(300):
        drawn = 0.5 * torch.randn(samples, 1000, generator=generator)
        weight.grad, weight.grad_samples = drawn.mean(0), samples
        weight.grad_variance = drawn.var(0) / samples if samples > 1 else torch.zeros(1000)
        optimizer.step()
    found = optimizer.belief(weight).observation_variance.mean().item()
    assert found == pytest.approx(0.25 / samples, rel=0.05)
    del weight.grad_samples
    assert optimizer.belief(weight).observation_variance is None


@pytest.mark.parametrize("kind", [varigrad.AdaBayes, varigrad.MSGD, varigrad.MSSD])
def test_a_moving_average_alone_is_believed_without_a_variance(kind):
    arguments = {"batch_size": 16, "reference_lr": 1e-3} if kind is varigrad.AdaBayes else {}
    optimizer, weight = stepped(kind, **arguments)
    belief = optimizer.belief(weight)
    assert close(belief.mean, moments(0.9, 0.9)[0])  # of the mean loss, whatever the batch size
    assert all(getattr(belief, field) is None for field in FIELDS[1:])


def test_methods_without_a_state_believe_nothing():
    model = torch.nn.Linear(3, 2)
    for optimizer in (varigrad.SSD(model.parameters()), varigrad.SVGD(model)):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()
        assert all(getattr(optimizer.belief(model.weight), field) is None for field in FIELDS)


@pytest.mark.parametrize(
    "kind", [varigrad.SVAG, varigrad.MSVAG, varigrad.AdamStar, varigrad.AdaBayesFP, varigrad.AdaptiveVSGD]
)
def test_one_gradient_shows_no_variance(kind):
    optimizer, weight = stepped(kind, GRADIENTS[:1], lr=1e-3)
    belief = optimizer.belief(weight)
    assert close(belief.mean, GRADIENTS[0])
    assert belief.observation_variance is None
    assert belief.snr is None


@pytest.mark.parametrize("kind", [*KNOWS_VARIANCE, *KNOWS_MEAN])
def test_a_belief_shares_no_memory_with_the_state_and_changes_nothing(kind):
    optimizer, weight = stepped(kind, lr=1e-3)
    before = copy.deepcopy(optimizer.state_dict()["state"])
    belief = optimizer.belief(weight)
    for field in FIELDS:
        if getattr(belief, field) is not None:
            getattr(belief, field).fill_(torch.nan)
    for name, value in before[0].items():
        assert torch.equal(optimizer.state[weight][name], value)


@pytest.mark.parametrize("kind", KNOWS_VARIANCE)
def test_climbing_mirrors_the_mean_alone(kind):
    up, above = stepped(kind, lr=1e-3, maximize=True)
    down, below = stepped(kind, -GRADIENTS, lr=1e-3)
    assert torch.equal(up.belief(above).mean, -down.belief(below).mean)
    assert torch.equal(up.belief(above).observation_variance, down.belief(below).observation_variance)


def test_climbing_mirrors_torchs_mean_too():
    optimizer, weight = stepped(torch.optim.Adam, maximize=True)
    assert close(varigrad.belief_of(optimizer, weight).mean, moments(0.9, 0.9)[0])


@pytest.mark.parametrize("kind", KNOWS_VARIANCE)
def test_a_complex_parameter_is_two_weights(kind):
    flat, whole = stepped(kind, lr=1e-3)
    gradients = torch.view_as_complex(GRADIENTS.view(STEPS, 15, 2))
    optimizer, weight = stepped(kind, gradients, lr=1e-3)
    for field in FIELDS:
        ours, real = getattr(optimizer.belief(weight), field), getattr(flat.belief(whole), field)
        assert (ours is None) == (real is None)
        if ours is not None:
            assert ours.shape == weight.shape
            assert close(torch.view_as_real(ours).flatten(), real)


@pytest.mark.parametrize("kind", KNOWS_VARIANCE)
def test_beliefs_of_16_bits_are_float32(kind):
    optimizer, weight = stepped(kind, GRADIENTS.bfloat16(), lr=1e-3, state_dtype=torch.bfloat16)
    exact, twin = stepped(kind, GRADIENTS.bfloat16().double(), lr=1e-3)
    ours = optimizer.belief(weight).mean
    assert ours.dtype == torch.float32
    assert torch.allclose(ours.double(), exact.belief(twin).mean, atol=0.02)


def test_a_count_on_the_device_is_not_waited_for():
    """As a tensor it gives the same belief; a first gradient, which shows no variance, then has NaN instead of None."""
    mean, moving = GRADIENTS[0], GRADIENTS[1].square()
    number, tensor = (averaged(mean, moving, 0.9, step) for step in (7.0, torch.tensor(7.0, dtype=torch.float64)))
    assert close(tensor.observation_variance, number.observation_variance)
    assert close(tensor.mean_noise, number.mean_noise)
    assert averaged(mean, moving, 0.9, torch.tensor(1.0)).observation_variance.isnan().all()


def test_where_there_is_neither_signal_nor_noise_the_ratio_is_zero():
    gradients = GRADIENTS.clone()
    gradients[:, 0] = 0.0
    optimizer, weight = stepped(varigrad.MSVAG, gradients)
    assert optimizer.belief(weight).snr[0] == 0.0


def test_what_cannot_be_asked_is_refused():
    optimizer, _ = stepped(varigrad.VSGD)
    with pytest.raises(TypeError, match="about a parameter of VSGD, a tensor, not about a str"):
        optimizer.belief("weight")
    with pytest.raises(ValueError, match=r"VSGD does not have the parameter of shape \(3,\)"):
        optimizer.belief(torch.zeros(3, requires_grad=True))
    fresh = torch.zeros(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="believes nothing yet about a parameter of shape"):
        varigrad.MSVAG([fresh]).belief(fresh)
    with pytest.raises(RuntimeError, match="AdamW believes nothing yet"):
        varigrad.belief_of(torch.optim.AdamW([fresh]), fresh)
    with pytest.raises(TypeError, match="cannot read SGD: it reads the optimizers of varigrad and"):
        varigrad.belief_of(torch.optim.SGD([fresh], lr=0.1), fresh)


def test_every_optimizer_answers():
    """Whatever is public says something of itself, or nothing, by name."""
    kinds = [kind for kind in vars(varigrad).values() if isinstance(kind, type) and issubclass(kind, RuleOptimizer)]
    silent = {kind for kind in kinds if kind.believe is RuleOptimizer.believe}
    assert silent == {varigrad.SSD, varigrad.SVGD}
    _, state = run(varigrad.SSD, GRADIENTS)
    assert set(state) == {"step"}
