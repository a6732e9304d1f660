"""Noise scales and gradient variances at fixed parameters, where the truth is known; and where they are biased."""

import functools
import math
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import varigrad

SIZE, STEPS, BATCH = 2000, 2000, 32
KINDS = {
    "VSGD": functools.partial(varigrad.VSGD, lr=0.0),
    "ConstantVSGD": functools.partial(varigrad.ConstantVSGD, lr=0.0),
    "MSVAG": functools.partial(varigrad.MSVAG, lr=0.0),
    "AdaptiveVSGD": functools.partial(varigrad.AdaptiveVSGD, lr=0.0),
    "AdaBayesFP": functools.partial(varigrad.AdaBayesFP, lr=0.0, reference_lr=1e-3),
    "AdamW": functools.partial(torch.optim.AdamW, lr=0.0),
    "RMSprop": functools.partial(torch.optim.RMSprop, lr=0.0, centered=True),
}


@functools.cache
def quadratic(scale: float, relative_mean: float) -> dict[str, tuple[float, float]]:
    """For each optimizer the believed variance and the noise scale after 2,000 steps, over the true ones.

    The loss is ½ Σ h (θ - x)² with x drawn anew at every step and θ held fixed: the gradient h (θ - x) of one batch has
    the mean h (θ - E[x]) and the variance h² Var[x].
    """
    generator = torch.Generator().manual_seed(0)
    curvature = 0.3 + 1.4 * torch.rand(SIZE, generator=generator)
    distance = relative_mean * scale * torch.randn(SIZE, generator=generator).sign()
    params = {name: torch.zeros(SIZE, requires_grad=True) for name in KINDS}
    optimizers = {name: make([params[name]]) for name, make in KINDS.items()}
    for _ in range(STEPS):
        gradient = curvature * (distance + scale * torch.randn(SIZE, generator=generator))
        for name, optimizer in optimizers.items():
            params[name].grad = gradient
            optimizer.step()
    variance = (curvature * scale).square()
    true = BATCH * variance.sum() / (curvature * distance).square().sum()
    found = {}
    for name, optimizer in optimizers.items():
        believed = varigrad.belief_of(optimizer, params[name]).observation_variance
        scale_found = varigrad.noise_scale(optimizer, BATCH)
        assert scale_found.rests_on == "state"
        found[name] = (believed.sum() / variance.sum()).item(), (scale_found / true).item()
    return found


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("relative_mean", [1.0, 0.25])
def test_at_fixed_parameters_variance_and_noise_scale_are_true(name, relative_mean):
    """With a noise scale of the batch, and of 16 batches; VSGD's mean has then settled to 11 %."""
    variance, scale = quadratic(0.1, relative_mean)[name]
    assert variance == pytest.approx(1.0, abs=0.03)
    assert scale == pytest.approx(1.0, abs=0.12 if name == "VSGD" else 0.05)


# Scale of the gradients and |mean| over deviation; then variance and noise scale over the truth: docs/beliefs.md.
VSGD_AT_REST = {
    (1e-4, 1.0): (109, math.inf),
    (1e-3, 1.0): (2.10, 2.50),
    (1e-2, 1.0): (1.01, 1.00),
    (0.1, 1.0): (1.00, 1.01),
    (1.0, 1.0): (1.23, 1.92),
    (10.0, 1.0): (1.32, 2.33),
}


@pytest.mark.parametrize("case", VSGD_AT_REST, ids=str)
def test_where_vsgd_is_biased_it_is_as_much_as_the_page_says(case):
    """Its start is forgotten slowly where gradients are small, its mean moves slowly where they are large."""
    assert quadratic(*case)["VSGD"] == pytest.approx(VSGD_AT_REST[case], rel=0.02)
    assert quadratic(*case)["MSVAG"] == pytest.approx((1.0, 1.0), rel=0.02)  # no scale matters to it


def test_the_page_has_these_figures():
    page = (Path(__file__).parents[1] / "docs" / "beliefs.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    (scales,) = (row[1:] for row in rows if row[0] == "Scale of the gradients")
    (variances,) = (row[1:] for row in rows if row[0] == "`observation_variance`")
    (noise_scales,) = (row[1:] for row in rows if row[0] == "`noise_scale`")
    assert len(scales) == len(VSGD_AT_REST)
    for scale, *said in zip(scales, variances, noise_scales, strict=True):
        exact = VSGD_AT_REST[float(scale), 1.0]
        assert said == [f"{value:.3g}".replace("inf", "∞") if value > 99 else f"{value:.2f}" for value in exact]


def in_batch(gradients: Tensor) -> Tensor:
    """A parameter whose gradient is the mean of these, with the variance inside the batch beside it."""
    weight = torch.zeros_like(gradients[0]).requires_grad_()
    weight.grad, weight.grad_samples = gradients.mean(0), len(gradients)
    weight.grad_variance = gradients.var(0) / len(gradients)
    return weight


def test_the_variance_inside_the_batch_is_used_where_it_is_there():
    """It needs no state: any optimizer will do."""
    generator = torch.Generator().manual_seed(1)
    weight = in_batch(0.5 + 2.0 * torch.randn(64, 20000, generator=generator))
    scale = varigrad.noise_scale(torch.optim.SGD([weight], lr=0.1), 64)
    assert scale.rests_on == "in-batch"
    assert scale == pytest.approx(4 / 0.25, rel=0.05)
    assert scale.noise == pytest.approx(20000 * 4 / 64, rel=0.02)
    assert scale.signal == pytest.approx(20000 * 0.25, rel=0.02)


def test_signal_and_noise_from_one_batch_have_no_bias():
    """Over many batches they average to the truth, which the plain squared norm would miss by the noise."""
    generator = torch.Generator().manual_seed(2)
    scales = [
        varigrad.noise_scale(
            torch.optim.SGD([in_batch(0.1 + torch.randn(8, 50, generator=generator))], lr=0.1), batch_size=8
        )
        for _ in range(1000)
    ]
    signals, noises = (torch.tensor([getattr(scale, name) for scale in scales]) for name in ("signal", "noise"))
    assert signals.mean().item() == pytest.approx(50 * 0.01, abs=4 * signals.std().item() / 1000**0.5)
    assert noises.mean().item() == pytest.approx(50 / 8, rel=0.02)
    assert math.inf in scales  # one batch of 8, and a noise scale of 100


@pytest.mark.parametrize("correlated", [False, True])
def test_the_interval_is_a_standard_deviation_at_most(correlated):
    """Whether every weight has noise of its own or all share one; there the bound is reached."""
    generator = torch.Generator().manual_seed(3)
    signals, bounds = [], []
    for _ in range(2000):
        drawn = torch.randn(8, 1 if correlated else 40, generator=generator).expand(8, 40)
        scale = varigrad.noise_scale(torch.optim.SGD([in_batch(0.5 + drawn)], lr=0.1), 8)
        signals.append(scale.signal)
        bounds.append(math.sqrt(2 * 5.0**2 + 4 * 5.0 * 10.0))  # with the true noise 40/8 and signal 40/4
    spread = torch.tensor(signals).std().item()
    assert spread < 1.1 * bounds[0]
    assert (spread > 0.8 * bounds[0]) == correlated


def test_the_interval_is_made_of_that_bound():
    """Of the signal, and of a noise that is uncertain by a share of itself."""
    scale = varigrad.NoiseScale.of(signal=40.0, noise=5.0, left=5.0, share=0.01, batch_size=8)
    spread = math.sqrt(2 * 5.0**2 + 4 * 5.0 * 40.0)
    assert scale == 1.0
    assert scale.interval == pytest.approx((8 * 4.5 / (40 + spread), 8 * 5.5 / (40 - spread)))
    assert varigrad.NoiseScale.of(10.0, 5.0, 5.0, 0.0, 8).interval[1] == math.inf


def test_the_interval_is_wide_where_the_state_is_short():
    """Ten gradients cannot show a signal of a tenth of their noise, whatever the noise's correlations."""
    generator = torch.Generator().manual_seed(4)
    weight = torch.zeros(1000, requires_grad=True)
    optimizer = varigrad.MSVAG([weight], lr=0.0)
    for _ in range(200):
        weight.grad = 0.2 + torch.randn(1000, generator=generator)
        optimizer.step()
    scale = varigrad.noise_scale(optimizer, 1)
    assert scale == pytest.approx(25, rel=0.3)
    assert scale.interval[0] < 25 < scale.interval[1]
    assert scale.interval[1] == math.inf


def test_groups_and_layers_have_their_own():
    generator = torch.Generator().manual_seed(5)
    model = nn.Sequential(nn.Linear(60, 50), nn.Linear(50, 40))
    groups = [{"params": model[0].parameters()}, {"params": model[1].parameters()}]
    optimizer = varigrad.MSVAG(groups, lr=0.0)
    for _ in range(100):
        for mean, layer in zip((1.0, 0.5), model, strict=True):
            for param in layer.parameters():
                param.grad = mean + torch.randn(param.shape, generator=generator)
        optimizer.step()
    scale = varigrad.noise_scale(optimizer, 10, model)
    assert [group.signal for group in scale.groups] == [layer.signal for layer in scale.layers.values()]
    assert list(scale.layers) == ["0", "1"]
    assert [float(group) for group in scale.groups] == pytest.approx([10, 40], rel=0.1)
    assert scale.signal == pytest.approx(sum(group.signal for group in scale.groups))
    assert list(varigrad.noise_scale(optimizer, 10).layers) == ["0.0", "0.1", "1.0", "1.1"]
    named = varigrad.MSVAG(model.named_parameters(), lr=0.0)
    for _ in range(2):
        for param in model.parameters():
            param.grad = torch.randn(param.shape, generator=generator)
        named.step()
    assert list(varigrad.noise_scale(named, 10).layers) == ["0", "1"]


def test_it_is_a_float_that_survives_pickling():
    weight = in_batch(torch.randn(8, 20, generator=torch.Generator().manual_seed(6)) + 3)
    scale = varigrad.noise_scale(torch.optim.SGD([weight], lr=0.1), 8)
    again = pickle.loads(pickle.dumps(scale))
    assert isinstance(again, float)
    assert (again, again.signal, again.interval) == (scale, scale.signal, scale.interval)
    assert list(again.layers) == list(scale.layers)


def test_what_cannot_be_estimated_is_refused():
    weight = torch.zeros(3, requires_grad=True)
    weight.grad = torch.ones(3)
    optimizer = varigrad.MSGD([weight], lr=0.0)
    optimizer.step()
    with pytest.raises(RuntimeError, match="noise_scale finds no variance in MSGD"):
        varigrad.noise_scale(optimizer, 8)
    for wrong in (0, 0.5, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="batch_size"):
            varigrad.noise_scale(optimizer, wrong)
    for wrong in ("8", None, True):
        with pytest.raises(TypeError, match="batch_size"):
            varigrad.noise_scale(optimizer, wrong)


def test_gradients_of_zero_have_no_noise_scale():
    weight = in_batch(torch.zeros(4, 3))
    assert math.isnan(varigrad.noise_scale(torch.optim.SGD([weight], lr=0.1), 4))
