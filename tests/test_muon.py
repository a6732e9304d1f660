"""AdaptiveMuon: all steps along AdaptiveVSGD's mean in units of the noise; those of matrices are orthogonalised."""

import numpy as np
import pytest
import torch
from torch import nn

import varigrad
from tests import reference
from tests.battery.table import ROWS, WAYS, displacements
from varigrad.muon import orthogonalised

ROW = next(row for row in ROWS if row.name == "AdaptiveMuon")
SHAPES = {"square": (5, 5), "wide": (4, 9), "tall": (9, 4), "kernel": (6, 3, 2, 2), "row": (1, 7), "column": (7, 1)}

every_way = pytest.mark.parametrize("way", WAYS)
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def stream(shape, steps=120, seed=0):
    """Gradients that drift and are observed with noise."""
    random = np.random.default_rng(seed)
    return list(np.cumsum(0.3 * random.normal(size=(steps, *shape)), axis=0) + random.normal(size=(steps, *shape)))


def walk(shape, dtype=torch.float32, steps=20, scale=1.0, **settings):
    """The parameter after some steps on gradients times `scale`, and the optimizer."""
    param = torch.zeros(shape, dtype=dtype, requires_grad=True)
    optimizer = varigrad.AdaptiveMuon([param], lr=1e-2, **settings)
    for gradient in stream(shape, steps):
        param.grad = torch.from_numpy(gradient).to(dtype) * scale
        optimizer.step()
    return param.detach(), optimizer


# ---------------------------------------------------------------- the mathematics


@every_way
@every_shape
@pytest.mark.parametrize("nesterov", [True, False])
def test_matrices_and_kernels_go_the_way_of_the_transcription(shape, way, nesterov):
    """It makes a polynomial of the singular values, where the library multiplies matrices."""
    gradients: list = stream(shape)
    gradients[7] = None
    gradients[9] = np.zeros(shape)
    rates = [1e-2 * 0.99**t for t in range(len(gradients))]
    (ours,) = displacements(ROW, [gradients], rates, torch.float64, nesterov=nesterov, weight_decay=0.1, **WAYS[way])
    exact = reference.adaptive_muon(np.zeros(shape), gradients, rates, nesterov=nesterov, weight_decay=0.1)
    assert np.abs(ours - exact).max() <= 1e-9 * np.abs(exact).max()


@every_shape
def test_in_single_precision_too(shape):
    gradients = [gradient.astype(np.float32).astype(np.float64) for gradient in stream(shape)]
    (ours,) = displacements(ROW, [gradients], 1e-2, torch.float32)
    exact = reference.adaptive_muon(np.zeros(shape), gradients, 1e-2)
    # The iterations compute in bfloat16, whose numbers are up to 0.4 % off.
    assert np.abs(ours - exact).max() <= 0.02 * np.abs(exact).max()


@pytest.mark.parametrize("shape", [(20, 60), (60, 20)], ids=str)
def test_a_step_has_equal_singular_values_and_adamws_mean_square(shape):
    param = torch.zeros(shape, requires_grad=True)
    param.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    varigrad.AdaptiveMuon([param], lr=1.0).step()
    values = torch.linalg.svdvals(param.detach()) / (0.2 * max(shape) ** 0.5)
    assert values.min() > 0.3
    assert values.max() < 1.25
    assert param.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)


def test_the_order_in_memory_of_a_kernel_does_not_matter():
    plain, _ = walk((6, 3, 2, 2), torch.float64)
    param = torch.zeros(6, 3, 2, 2, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    optimizer = varigrad.AdaptiveMuon([param], lr=1e-2)
    for gradient in stream((6, 3, 2, 2), steps=20):
        param.grad = torch.from_numpy(gradient).to(memory_format=torch.channels_last)
        optimizer.step()
    torch.testing.assert_close(param.detach(), plain, rtol=1e-12, atol=1e-14)


def test_without_noise_and_with_a_gain_that_stays_it_is_torchs_muon():
    """Where all weights have the same signal-to-noise ratio there is nothing to weigh; torch computes in bfloat16."""

    class Fixed(varigrad.AdaptiveMuon):
        start_gain = 0.05
        gain_rate = 0.0

    shape = (16, 24)
    ours, theirs = (torch.zeros(shape, requires_grad=True) for _ in range(2))
    fixed = Fixed([ours], lr=1.0)
    muon = torch.optim.Muon([theirs], lr=1.0, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    noise = torch.randn(400, *shape, generator=torch.Generator().manual_seed(0))
    for gradient in noise:
        before = ours.detach().clone(), theirs.detach().clone()
        for param, optimizer in ((ours, fixed), (theirs, muon)):
            param.grad = gradient.clone()
            optimizer.step()
    mine, torchs = ours.detach() - before[0], theirs.detach() - before[1]
    # z is bounded where the mean is not: far from the bound the two are in proportion.
    assert (mine - torchs).norm() < 0.1 * torchs.norm()
    assert fixed.state[ours]["gain"].item() == pytest.approx(0.05)


@pytest.mark.parametrize("power", [-7, 7, -40, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_loss_times_a_power_of_two_changes_no_bit(power, dtype):
    ours, _ = walk((5, 8), dtype)
    scaled, _ = walk((5, 8), dtype, scale=2.0**power)
    assert torch.equal(ours, scaled)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_no_size_of_gradients_is_too_small_or_too_large(scale):
    ours, _ = walk((5, 8))
    extreme, _ = walk((5, 8), scale=scale)
    torch.testing.assert_close(extreme, ours, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_matrix_of_any_size_is_orthogonalised(scale):
    """The squares of its elements are beyond what a number of 32 bits can hold."""
    matrix = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalised(matrix * scale), orthogonalised(matrix), rtol=0, atol=0.03)


def test_what_never_had_a_gradient_only_decays():
    param = torch.ones(3, 4, requires_grad=True)
    optimizer = varigrad.AdaptiveMuon([param], lr=0.1, weight_decay=0.5)
    for _ in range(3):
        param.grad = torch.zeros(3, 4)
        optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((3, 4), 0.95**3))


def test_a_complex_matrix_becomes_unitary():
    matrix = torch.randn(6, 9, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    left, values, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.min() > 0.3
    assert values.max() < 1.25
    turned = left.conj().T @ orthogonalised(matrix).numpy() @ right.conj().T
    assert np.abs(turned - np.diag(np.diag(turned))).max() < 1e-12  # the singular vectors stay
    param = torch.zeros(6, 9, dtype=torch.complex64, requires_grad=True)
    param.grad = matrix.to(torch.complex64)
    varigrad.AdaptiveMuon([param], lr=1.0).step()
    signs = torch.complex(matrix.real.sign(), matrix.imag.sign())  # of two weights each, at the first step
    step = (0.2 * 3 * orthogonalised(signs)).to(torch.complex64)
    torch.testing.assert_close(param.detach(), -step, rtol=0, atol=1e-4)


# ---------------------------------------------------------------- which parameters are matrices


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def test_a_model_has_its_inner_matrices_told_from_the_rest():
    model = network()
    optimizer = varigrad.AdaptiveMuon(model, lr=1e-2, weight_decay=0.1)
    matrices, others = optimizer.param_groups
    assert matrices["param_names"] == ["2.weight", "4.weight"]
    assert others["param_names"] == ["0.weight", "0.bias", "2.bias", "4.bias", "6.weight", "6.bias"]
    assert (matrices["matrices"], others["matrices"]) == (True, False)
    # What is not a matrix goes the same way by itself.
    twin = network()
    rest = [param for name, param in twin.named_parameters() if name in others["param_names"]]
    alone = varigrad.AdaptiveMuon(rest, lr=1e-2, weight_decay=0.1, matrices=False)
    for step in range(5):
        random = torch.Generator().manual_seed(step)
        for param, other in zip(model.parameters(), twin.parameters(), strict=True):
            param.grad = torch.randn(param.shape, generator=random)
            other.grad = param.grad.clone()
        optimizer.step()
        alone.step()
    for param, other in zip(others["params"], rest, strict=True):
        assert torch.equal(param, other)


def test_the_projections_of_an_attention_are_matrices():
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16), nn.MultiheadAttention(8, 2, kdim=4), nn.Linear(8, 3))
    matrices, _ = varigrad.AdaptiveMuon(model).param_groups
    assert matrices["param_names"] == [
        *("0.self_attn.in_proj_weight", "0.self_attn.out_proj.weight", "0.linear1.weight", "0.linear2.weight"),
        *("1.q_proj_weight", "1.k_proj_weight", "1.v_proj_weight", "1.out_proj.weight"),
    ]


def test_the_weights_of_recurrent_layers_are_matrices():
    model = nn.ModuleList([nn.LSTM(4, 8, num_layers=2, proj_size=3), nn.GRUCell(3, 5), nn.Linear(5, 2)])
    matrices, _ = varigrad.AdaptiveMuon(model).param_groups
    layers = (f"0.weight_{name}_l{layer}" for layer in (0, 1) for name in ("ih", "hh", "hr"))
    assert matrices["param_names"] == [*layers, "1.weight_ih", "1.weight_hh"]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_the_length_and_the_direction_of_a_normalised_weight_are_no_matrices():
    model = nn.utils.weight_norm(nn.LSTM(4, 8), "weight_hh_l0")
    matrices, _ = varigrad.AdaptiveMuon(model).param_groups
    assert matrices["param_names"] == ["weight_ih_l0"]


def test_a_model_without_matrices_or_of_nothing_else_has_one_group():
    norm = varigrad.AdaptiveMuon(nn.LayerNorm(4))
    assert [group["matrices"] for group in norm.param_groups] == [False]
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2)).requires_grad_(True)
    model[1].requires_grad_(False)
    assert [len(group["params"]) for group in varigrad.AdaptiveMuon(model).param_groups] == [1, 2]
    with pytest.raises(ValueError, match="empty parameter list"):
        varigrad.AdaptiveMuon(nn.ReLU())


def test_of_parameters_all_with_two_dimensions_are_matrices_unless_a_group_says_no():
    def end(**settings):
        param = torch.zeros(4, 6, requires_grad=True)
        optimizer = varigrad.AdaptiveMuon([{"params": [param], **settings}], lr=1e-2)
        param.grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
        optimizer.step()
        return param.detach()

    assert torch.equal(end(), end(matrices=True))
    flat = end(matrices=False)
    torch.testing.assert_close(flat.abs(), torch.full((4, 6), 1e-2))
    assert not torch.allclose(end().abs(), flat.abs())


def test_no_weight_outside_a_matrix_moves_by_more_than_the_learning_rate():
    param = torch.zeros(200, requires_grad=True)
    optimizer = varigrad.AdaptiveMuon([param], lr=1e-2)
    for gradient in stream((200,)):
        before = param.detach().clone()
        param.grad = torch.from_numpy(gradient).float() * 100
        optimizer.step()
        assert (param.detach() - before).abs().max() <= 1e-2 * (1 + 1e-6)


# ---------------------------------------------------------------- memory


def test_the_state_of_a_matrix_is_adaptive_vsgds():
    _, optimizer = walk((5, 8))
    (state,) = optimizer.state.values()
    assert set(state) == {"step", "mean", "deviation", "agreement", "energy", "gain"}
    belief = varigrad.belief_of(optimizer, optimizer.param_groups[0]["params"][0])
    assert belief.observation_variance.shape == belief.gain.shape == (5, 8)


@pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
def test_a_matrix_of_16_bits_goes_where_one_of_32_bits_goes(rounding):
    """Each step is a hundredth of the last place, which rounding to the nearest loses; all are a few places."""
    shape = (64, 64)

    def moved(dtype, **settings):
        param = torch.full(shape, 4.0, dtype=dtype, requires_grad=True)
        optimizer = varigrad.AdaptiveMuon([param], lr=1e-3, **settings)
        for gradient in stream(shape, steps=300):
            param.grad = torch.from_numpy(gradient).bfloat16().to(dtype)
            optimizer.step()
        return param.detach().double() - 4

    exact = moved(torch.float32)
    assert not moved(torch.bfloat16, rounding="nearest").any()
    ours = moved(torch.bfloat16, rounding=rounding)
    # How much of the way is gone. At random the last places of 4,096 weights leave an error of 0.02 in it.
    assert (ours * exact).sum() / exact.square().sum() == pytest.approx(1.0, abs=0.1)


# ---------------------------------------------------------------- what is learned


def correlation(gain, drift):
    """Of successive innovations of a mean with this gain, of random walks observed with noise of variance 1.

    With p the error of the last mean, e = p + n, and p goes on as (1 - w) p - w n + a step of the walk.
    """
    error = (gain**2 + drift) / (1 - (1 - gain) ** 2)
    return ((1 - gain) * error - gain) / (error + 1)


NOISES = {
    "normal": lambda random, shape: torch.randn(shape, generator=random),
    "heavy-tailed": lambda random, shape: (
        torch.randn(shape, generator=random) / torch.rand(shape, generator=random) ** 0.3
    ),
    # The median is far from the mean.
    "skewed": lambda random, shape: -torch.rand(shape, generator=random).log() - 1,
    "scattered": lambda random, shape: (
        torch.randn(shape, generator=random) * torch.where(torch.rand(shape, generator=random) < 0.3, 1.0, 0.001)
    ),
}


def learned_gain(drift, noise, size=8000, steps=800):
    """What AdaptiveMuon learns on random walks that are observed with noise of variance 1, averaged over the end."""
    random = torch.Generator().manual_seed(0)
    level, gains = torch.zeros(size), []
    weight = torch.zeros(size, requires_grad=True)
    optimizer = varigrad.AdaptiveMuon([weight], lr=1e-3)
    unit = NOISES[noise](torch.Generator().manual_seed(1), (10**6,)).std()
    for _ in range(steps):
        level += drift**0.5 * torch.randn(size, generator=random)
        weight.grad = level + NOISES[noise](random, (size,)) / unit
        optimizer.step()
        gains.append(optimizer.state[weight]["gain"].item())
    return sum(gains[-200:]) / 200


@pytest.mark.parametrize("drift", [0.0, 0.05, 0.5])
def test_the_gain_is_that_of_the_correlation_aimed_at(drift):
    """-0.05, which is a memory somewhat shorter than that of the best filter."""
    gain = learned_gain(drift, "normal")
    assert correlation(gain, drift) == pytest.approx(varigrad.AdaptiveMuon.target, abs=0.01)


@pytest.mark.parametrize("noise", ["heavy-tailed", "skewed", "scattered"])
def test_noise_of_no_shape_is_taken_for_drift(noise):
    """Signs take the last two for it: AdaptiveVSGD's gain goes to 0.2 and 0.9."""
    assert learned_gain(0.0, noise) == pytest.approx(0.1, abs=0.02)


def test_the_gain_of_each_matrix_is_its_own():
    still, drifting = (torch.zeros(60, 60, requires_grad=True) for _ in range(2))
    optimizer = varigrad.AdaptiveMuon([still, drifting], lr=1e-3)
    random, level = torch.Generator().manual_seed(0), torch.zeros(60, 60)
    for _ in range(300):
        level += torch.randn(60, 60, generator=random)
        still.grad = torch.randn(60, 60, generator=random)
        drifting.grad = level + torch.randn(60, 60, generator=random)
        optimizer.step()
    assert optimizer.state[still]["gain"] < 0.15
    assert optimizer.state[drifting]["gain"] > 0.5
