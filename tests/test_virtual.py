"""Virtual gradients and SVGD against Algorithm 1, its limits, and everything that may happen to a model."""

import copy
import gc
import io
import pickle
import sys
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import varigrad
from tests import reference
from tests.distributed.processes import launch
from varigrad.engine.taps import Taps

STEPS = 200
WAYS = pytest.mark.parametrize(
    "flags",
    [{"foreach": False, "fused": False}, {"foreach": True}, {"fused": True}, {"capturable": True}],
    ids=["loop", "foreach", "fused", "capturable"],
)
SETTINGS = pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale": 2.0, "rho": 0.5, "eps": 1e-2},
        {"eps": 0.0},
        {"rho": 0.0},
        {"biases": True},
        {"biases": True, "weight_decay": 0.1},
    ],
    ids=str,
)


def half_square(outputs, targets):
    """The loss of the oracle: half the squared distance, a mean over the samples."""
    return 0.5 * (outputs - targets).square().sum() / len(outputs)


def data(steps, m, inputs, outputs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        tuple(torch.randn(m, *shape, generator=generator, dtype=torch.float64) for shape in (inputs, outputs))
        for _ in range(steps)
    ]


def matrices(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def train(model, optimizer, batches, loss=half_square):
    """Trains; returns the parameters before the first and after each step, by name."""
    trail = {name: [p.detach().clone()] for name, p in model.named_parameters()}
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()
        for name, p in model.named_parameters():
            trail[name].append(p.detach().clone())
    return {name: torch.stack(positions) for name, positions in trail.items()}


def assert_follows(ours, exact):
    """The largest difference is below 1e-9 of the largest displacement."""
    exact = torch.from_numpy(np.array(exact).astype(np.float64))
    assert (ours - exact).abs().max() <= 1e-9 * (exact - exact[0]).abs().max()


def assert_matrices_follow(model, trail, oracle):
    for k, layer in enumerate(name for name, module in model.named_modules() if isinstance(module, nn.Linear)):
        assert_follows(trail[f"{layer}.weight"], [weights[k] for weights in oracle[0]])
        assert_follows(trail[f"{layer}.bias"], [offsets[k] for offsets in oracle[1]])


def start_of(model):
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return [layer.weight.detach().numpy().copy() for layer in layers], [
        layer.bias.detach().numpy().copy() for layer in layers
    ]


# ---------------------------------------------------------------- Algorithm 1


@SETTINGS
def test_matrices_follow_algorithm_1(settings):
    model, batches = matrices(), data(STEPS, 6, (5,), (3,))
    oracle = reference.svgd_mlp(*start_of(model), batches, 0.02, **settings)
    assert_matrices_follow(model, train(model, varigrad.SVGD(model, lr=0.02, **settings), batches), oracle)


@WAYS
def test_every_way_follows_algorithm_1(flags):
    model, batches = matrices(), data(STEPS, 6, (5,), (3,))
    oracle = reference.svgd_mlp(*start_of(model), batches, 0.02)
    assert_matrices_follow(model, train(model, varigrad.SVGD(model, lr=0.02, **flags), batches), oracle)


@SETTINGS
def test_a_convolution_follows_algorithm_1(settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1)).double()
    batches = data(STEPS, 3, (2, 5, 4), (3, 3, 2))
    start = [p.detach().numpy().copy() for p in model.parameters()]
    kernels, offsets = reference.svgd_conv(*start, batches, 0.02, stride=2, padding=1, **settings)
    trail = train(model, varigrad.SVGD(model, lr=0.02, **settings), batches)
    assert_follows(trail["0.weight"], kernels)
    assert_follows(trail["0.bias"], offsets)


def test_the_authors_calibration_is_the_arithmetic_of_their_program():
    model, batches = matrices(), data(STEPS, 6, (5,), (3,))
    oracle = reference.svgd_mlp(*start_of(model), batches, 0.02, scale=0.3, eps=1e-4, program=True)
    twin = copy.deepcopy(model)
    theirs = train(model, varigrad.SVGD.authors(model, batch_size=6, lr=0.02, scale=0.3, eps=1e-4), batches)
    assert_matrices_follow(model, theirs, oracle)
    paper = train(twin, varigrad.SVGD(twin, lr=0.02, scale=6 * 0.3, eps=36 * 1e-4), batches)
    assert all(torch.allclose(theirs[name], paper[name], rtol=0, atol=1e-12) for name in paper)


def test_a_sum_over_the_samples_is_the_mean_with_its_rate():
    model, batches = matrices(), data(STEPS, 6, (5,), (3,))
    oracle = reference.svgd_mlp(*start_of(model), batches, 0.02, biases=True)
    optimizer = varigrad.SVGD(model, lr=0.02 / 6, biases=True, loss_reduction="sum")
    trail = train(model, optimizer, batches, lambda outputs, targets: 6 * half_square(outputs, targets))
    assert_matrices_follow(model, trail, oracle)


def test_any_optimizer_sees_the_virtual_gradients():
    model, batches = matrices(), data(STEPS, 6, (5,), (3,))
    oracle = reference.svgd_mlp(*start_of(model), batches, 0.02)
    varigrad.virtual_gradients(model)
    trail = train(model, torch.optim.SGD(model.parameters(), lr=0.02), batches)
    assert_matrices_follow(model, trail, oracle)


def test_climbing_is_descending_on_the_negative_loss():
    model, batches = matrices(), data(20, 6, (5,), (3,))
    twin = copy.deepcopy(model)
    down = train(model, varigrad.SVGD(model, lr=0.02), batches)
    negative = varigrad.SVGD(twin, lr=0.02, maximize=True)
    up = train(twin, negative, batches, lambda *pair: -half_square(*pair))
    assert all(torch.equal(down[name], up[name]) for name in down)


@pytest.mark.parametrize("factor", [2.0**20, 2.0**-20, 1000.0])
def test_without_eps_the_scale_of_the_loss_does_not_matter(factor):
    model, batches = matrices(), data(5, 6, (5,), (3,))
    twin = copy.deepcopy(model)
    for network in (model, twin):
        varigrad.virtual_gradients(network, eps=0.0, biases=True)
    for inputs, targets in batches:
        model.zero_grad()
        twin.zero_grad()
        half_square(model(inputs), targets).backward()
        (factor * half_square(twin(inputs), targets)).backward()
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(p.grad, q.grad, rtol=1e-13, atol=0)


def test_a_layer_without_any_gradient_does_not_move_without_eps():
    model = matrices()
    optimizer = varigrad.SVGD(model, eps=0.0, biases=True)
    before = [p.detach().clone() for p in model.parameters()]
    (0 * model(torch.randn(3, 5, dtype=torch.float64))).sum().backward()
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


# ---------------------------------------------------------------- r, its shape and its sites


def by_hand(layer, inputs, direction, mean_over, scale=0.1, rho=0.9, eps=1e-6):
    """The virtual gradient after one backward pass, from autograd's gradient by the layer's output, and r."""
    output = layer(inputs)
    (grad,) = torch.autograd.grad((output * direction).sum() / len(inputs), output, retain_graph=True)
    r = (1 - rho) * (len(inputs) * grad).square().mean(mean_over)
    shape = [1 if d in mean_over else size for d, size in enumerate(grad.shape)]
    virtual = scale * grad / (r.reshape(shape) + eps).sqrt()
    return torch.autograd.grad(output, layer.weight, virtual)[0], r


@pytest.mark.parametrize(
    ("layer", "shape", "positions"),
    [
        (nn.Linear(5, 3), (4, 5), ()),
        (nn.Linear(5, 3), (4, 7, 5), (1,)),
        (nn.Conv1d(2, 3, 2, padding=1), (4, 2, 6), (2,)),
        (nn.ConvTranspose2d(2, 3, 2, stride=2), (4, 2, 3, 3), (2, 3)),
        (nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last), (4, 2, 5, 5), (2, 3)),
        (nn.Conv2d(2, 16, 3, padding=1), (3, 2, 24, 24), (2, 3)),  # large enough to be squared sample by sample
        (nn.Embedding(9, 3), None, (1,)),
    ],
    ids=["linear", "linear-3d", "conv1d", "convtranspose2d", "channels-last", "large", "embedding"],
)
@pytest.mark.parametrize("per", ["position", "channel"])
def test_r_has_the_shape_of_a_sample_or_a_value_for_each_channel(layer, shape, positions, per):
    layer = copy.deepcopy(layer).double()
    inputs = torch.randint(9, (4, 6)) if shape is None else torch.randn(shape, dtype=torch.float64)
    direction = torch.randn_like(layer(inputs))
    weight_grad, r = by_hand(layer, inputs, direction, (0, *positions) if per == "channel" else (0,))
    handle = varigrad.virtual_gradients(layer, per=per)
    ((layer(inputs) * direction).sum() / len(inputs)).backward()
    assert torch.allclose(layer.weight.grad, weight_grad, rtol=1e-12)
    (kept,) = handle.squares["weight"].values()
    assert kept.shape == r.shape
    assert torch.allclose(kept, r, rtol=1e-12)


def test_another_shape_is_refused_by_name_and_served_per_channel():
    model = nn.Sequential(nn.Conv2d(1, 2, 3))
    handle = varigrad.virtual_gradients(model)
    model(torch.randn(3, 1, 6, 6)).mean().backward()
    model(torch.randn(5, 1, 6, 6)).mean().backward()  # another number of samples is none
    with pytest.raises(ValueError, match=r"0.weight \(Conv2d\), call 0.*\(2, 4, 4\).*\(2, 5, 5\).*per='channel'"):
        model(torch.randn(3, 1, 7, 7)).mean().backward()
    handle.remove()
    varigrad.virtual_gradients(model, per="channel")
    for size in (6, 7):
        model(torch.randn(3, 1, size, size)).mean().backward()


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3).double()

    def forward(self, x):
        return self.layer(torch.tanh(self.layer(x)))


def test_every_call_has_its_own_r():
    """The same steps as two layers of their own whose weights are kept equal: Eq. 10 sums over the calls."""
    model = Twice()
    one, two = nn.Linear(3, 3).double(), nn.Linear(3, 3).double()
    apart = nn.Sequential(one, nn.Tanh(), two)
    handle, loose = varigrad.virtual_gradients(model), varigrad.virtual_gradients(apart)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for inputs, targets in data(20, 4, (3,), (3,)):
        for layer in (one, two):
            layer.load_state_dict(model.layer.state_dict())
        for network in (model, apart):
            network.zero_grad()
            half_square(network(inputs), targets).backward()
        assert torch.allclose(model.layer.weight.grad, one.weight.grad + two.weight.grad, rtol=1e-12)
        assert torch.equal(handle.squares["layer.weight"][0], loose.squares["0.weight"][0])
        assert torch.equal(handle.squares["layer.weight"][1], loose.squares["2.weight"][0])
        optimizer.step()


def test_every_backward_pass_moves_r():
    """Accumulated gradients: two backward passes are two mini-batches."""
    model, twin = matrices(), matrices()
    accumulated, apart = varigrad.virtual_gradients(model), varigrad.virtual_gradients(twin)
    parts = data(2, 4, (5,), (3,))
    total = None
    for inputs, targets in parts:
        half_square(model(inputs), targets).backward()
        twin.zero_grad()
        half_square(twin(inputs), targets).backward()
        grads = [p.grad for p in twin.parameters()]
        total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
    assert all(torch.equal(p.grad, t) for p, t in zip(model.parameters(), total, strict=True))
    for site, calls in apart.squares.items():
        assert torch.equal(calls[0], accumulated.squares[site][0])


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 1e30])
def test_r_forgets_what_is_not_finite(broken):
    """Its square overflows float32 or is no number: the elements that it touches keep their r, the others move."""
    model = nn.Linear(2, 3)
    handle = varigrad.virtual_gradients(model, biases=True)
    x = torch.ones(4, 2)
    model(x).mean().backward()
    before = handle.squares["weight"][0].clone()
    (model(x) * torch.tensor([1.0, broken, 1.0])).sum().backward()
    after = handle.squares["weight"][0]
    assert after.isfinite().all()
    assert after[1] == before[1]
    assert (after != before).tolist() == [True, False, True]
    model.zero_grad()
    model(x).mean().backward()
    assert model.weight.grad.isfinite().all()


# ---------------------------------------------------------------- checkpoints


def test_a_resumed_run_is_the_run_itself_to_the_bit():
    batches = data(20, 6, (5,), (3,))
    whole = matrices()
    settings = {"lr": 0.02, "weight_decay": 0.1}
    trail = train(whole, varigrad.SVGD(whole, **settings), batches)
    model = matrices()
    optimizer = varigrad.SVGD(model, **settings)
    train(model, optimizer, batches[:10])
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    other = matrices(seed=1)
    resumed = varigrad.SVGD(other, lr=1.0)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    rest = train(other, resumed, batches[10:])
    assert all(torch.equal(rest[name], trail[name][10:]) for name in trail)


def test_without_r_the_run_would_be_another():
    batches = data(20, 6, (5,), (3,))
    model = matrices()
    optimizer = varigrad.SVGD(model, lr=0.02)
    train(model, optimizer, batches[:10])
    forgetful = copy.deepcopy(model)
    mine = train(model, optimizer, batches[10:])
    theirs = train(forgetful, varigrad.SVGD(forgetful, lr=0.02), batches[10:])
    assert not torch.allclose(mine["0.weight"], theirs["0.weight"])


def test_what_is_loaded_shares_no_memory_with_what_was_saved():
    model = matrices()
    optimizer = varigrad.SVGD(model)
    batches = data(2, 6, (5,), (3,))
    train(model, optimizer, batches)
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved)
    optimizer.load_state_dict(saved)
    train(model, optimizer, batches)
    for site, calls in before["virtual_gradients"]["squares"].items():
        assert torch.equal(calls[0], saved["virtual_gradients"]["squares"][site][0])


def test_the_handle_saves_and_loads_too():
    model, batches = matrices(), data(10, 6, (5,), (3,))
    handle = varigrad.virtual_gradients(model)
    train(model, torch.optim.SGD(model.parameters(), lr=0.02), batches)
    twin = copy.deepcopy(model)
    other = varigrad.virtual_gradients(twin)
    other.load_state_dict(handle.state_dict())
    for network in (model, twin):
        network.zero_grad()
        half_square(network(batches[0][0]), batches[0][1]).backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_the_state_of_something_else_is_refused_and_changes_nothing():
    model = matrices()
    optimizer = varigrad.SVGD(model, lr=0.02)
    train(model, optimizer, data(2, 6, (5,), (3,)))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="not SVGD's: it has no virtual_gradients"):
        optimizer.load_state_dict(torch.optim.SGD(model.parameters()).state_dict())
    other = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 3))
    stranger = varigrad.SVGD(other)
    other(torch.randn(2, 5)).mean().backward()
    with pytest.raises(ValueError, match=r"no layer 1.weight"):
        optimizer.load_state_dict(stranger.state_dict())
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for site, calls in before["virtual_gradients"]["squares"].items():
        assert torch.equal(calls[0], after["virtual_gradients"]["squares"][site][0])


# ---------------------------------------------------------------- an optimizer like any other


def test_settings_of_a_group_hold_for_its_layers():
    model, twin = matrices(), matrices()
    groups = [
        {"params": model[0].parameters(), "scale": 0.5, "lr": 0.1},
        {"params": model[2].parameters()},
        {"params": model[4].parameters(), "rho": 0.0, "eps": 1.0},
    ]
    optimizer = varigrad.SVGD(model, param_groups=groups)
    plain = varigrad.SVGD(twin)
    ((inputs, targets),) = data(1, 6, (5,), (3,))
    for network in (model, twin):
        half_square(network(inputs), targets).backward()
    assert torch.allclose(model[0].weight.grad, 5 * twin[0].weight.grad, rtol=1e-14)
    assert torch.equal(model[2].weight.grad, twin[2].weight.grad)
    r = plain.virtual_gradients.squares["4.weight"][0]
    assert torch.allclose(optimizer.virtual_gradients.squares["4.weight"][0], 10 * r, rtol=1e-14)
    optimizer.param_groups[1]["scale"] = 0.2
    model.zero_grad()
    half_square(model(inputs), targets).backward()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    moved = before[0] - model[0].weight.detach()
    assert torch.allclose(moved, 0.1 * model[0].weight.grad, rtol=1e-12)


def test_a_group_added_later_is_served():
    model = matrices()
    optimizer = varigrad.SVGD(model, param_groups=model[0].parameters())
    optimizer.add_param_group({"params": list(model[2].parameters()), "scale": 0.0})
    ((inputs, targets),) = data(1, 6, (5,), (3,))
    half_square(model(inputs), targets).backward()
    assert model[2].weight.grad.count_nonzero() == 0
    assert model[4].weight.grad.count_nonzero() > 0


def test_a_grad_scaler_changes_nothing():
    batches = data(10, 6, (5,), (3,))
    plain, scaled = matrices(), matrices()
    trail = train(plain, varigrad.SVGD(plain, lr=0.02), batches)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=3)
    optimizer = varigrad.SVGD(scaled, lr=0.02, grad_scaler=scaler)
    for inputs, targets in batches:
        optimizer.zero_grad()
        scaler.scale(half_square(scaled(inputs), targets)).backward()
        scaler.step(optimizer)
        scaler.update()
    for name, p in scaled.named_parameters():
        assert torch.allclose(p, trail[name][-1], rtol=1e-12)


def test_a_step_that_the_scaler_skips_changes_nothing():
    """Not r either, which has moved in the backward pass by then; two backward passes to a step."""
    (poisoned, targets), *batches = data(9, 6, (5,), (3,))
    model, twin = matrices(), matrices()
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=1000)
    optimizer = varigrad.SVGD(model, lr=0.02, grad_scaler=scaler)
    plain = varigrad.SVGD(twin, lr=0.02)
    for number, pair in enumerate(zip(batches[::2], batches[1::2], strict=True)):
        if number == 2:
            before = copy.deepcopy((optimizer.state_dict(), model.state_dict()))
            optimizer.zero_grad()
            scaler.scale(half_square(model(poisoned), targets)).backward()
            model[0].weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            after = optimizer.state_dict(), model.state_dict()
            flat, same = (torch.utils._pytree.tree_leaves(each) for each in (before, after))
            for one, other in zip(flat, same, strict=True):
                assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        optimizer.zero_grad()
        plain.zero_grad()
        for inputs, goals in pair:
            scaler.scale(half_square(model(inputs), goals)).backward()
            half_square(twin(inputs), goals).backward()
        scaler.step(optimizer)
        scaler.update()
        plain.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-12, atol=0)


def test_bfloat16_keeps_r_in_float32():
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    half = copy.deepcopy(model).bfloat16()
    exact, rounded = varigrad.virtual_gradients(model), varigrad.virtual_gradients(half)
    x = torch.randn(64, 5).bfloat16()
    model(x.float()).square().mean().backward()
    half(x).square().mean().backward()
    assert half.weight.grad.dtype is torch.bfloat16
    assert rounded.squares["weight"][0].dtype is torch.float32
    assert torch.allclose(rounded.squares["weight"][0], exact.squares["weight"][0], rtol=0.02)
    assert torch.allclose(half.weight.grad.float(), model.weight.grad, rtol=0.03, atol=3e-3)


def test_a_frozen_model_thaws():
    model = matrices()
    optimizer = varigrad.SVGD(model)
    model[0].requires_grad_(False)
    batches = data(2, 6, (5,), (3,))
    train(model, optimizer, batches)
    assert set(optimizer.virtual_gradients.squares) == {"2.weight", "4.weight"}
    model[0].requires_grad_(True)
    train(model, optimizer, batches)
    assert set(optimizer.virtual_gradients.squares) == {"0.weight", "2.weight", "4.weight"}


def test_memory_does_not_grow_with_the_steps(newer_objects):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    optimizer = varigrad.SVGD(model)
    counts = []
    for step in range(8):
        optimizer.zero_grad()
        model(torch.randn(4 + step % 2, 1, 6, 6)).mean().backward()
        optimizer.step()
        gc.collect()
        tensors = [thing for thing in newer_objects() if type(thing) in (torch.Tensor, nn.Parameter)]
        counts.append((len(tensors), sum(tensor.untyped_storage().nbytes() for tensor in tensors)))
        del tensors
    assert len(set(counts[3:])) == 1


def test_the_end_of_the_optimizer_is_the_end_of_its_hooks():
    model = matrices()
    optimizer = varigrad.SVGD(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    watch = weakref.ref(optimizer)
    with pytest.raises(RuntimeError, match="tapped already"):
        varigrad.SVGD(model)
    del optimizer, scheduler
    gc.collect()
    assert watch() is None
    assert not any("forward" in vars(module) for module in model.modules())
    varigrad.SVGD(model)


def test_a_removed_handle_leaves_true_gradients():
    model, twin = matrices(), matrices()
    optimizer = varigrad.SVGD(model)
    ((inputs, targets),) = data(1, 6, (5,), (3,))
    optimizer.virtual_gradients.remove()
    for network in (model, twin):
        half_square(network(inputs), targets).backward()
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_optimizer_cannot_be_copied_without_its_model(copied):
    with pytest.raises(TypeError, match="tied to its model"):
        copied(varigrad.SVGD(matrices()))


# ---------------------------------------------------------------- what cannot be served


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(3))
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(x) * self.factor


def parametrised():
    return nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (lambda: nn.LSTM(3, 3), r"1\.weight_hh_l0 \(LSTM\)"),
        (lambda: nn.GRUCell(3, 3), r"1\.weight_ih \(GRUCell\)"),
        (lambda: nn.EmbeddingBag(3, 3), r"1\.weight \(EmbeddingBag\)"),
        (lambda: nn.PReLU(), r"1\.weight \(PReLU\)"),
        (Scaled, r"1\.factor \(Scaled\)"),
        (parametrised, r"1\.parametrizations\.weight\.original0"),
        (lambda: nn.Linear(3, 3, dtype=torch.complex64), r"1\.weight \(Linear\)"),
    ],
    ids=["lstm", "grucell", "embeddingbag", "prelu", "parameter", "parametrised", "complex"],
)
def test_what_keeps_its_true_gradient_is_named_once(layer, named):
    model = nn.Sequential(nn.Linear(3, 3), layer(), nn.BatchNorm1d(3))
    with pytest.warns(UserWarning, match=f"keep their true gradients.*{named}") as caught:
        varigrad.virtual_gradients(model)
    assert len(caught) == 1
    assert "0." not in str(caught[0].message)  # served, and its bias plain by intention
    assert "2." not in str(caught[0].message)  # plain by intention


def test_a_frozen_layer_that_cannot_be_served_needs_no_warning():
    model = nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 3).requires_grad_(False), nn.LayerNorm(3))
    handle = varigrad.virtual_gradients(model)
    handle.remove()


def test_a_parametrised_weight_keeps_its_true_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), parametrised())
    twin = nn.Sequential(nn.Linear(3, 3), parametrised())
    twin.load_state_dict(model.state_dict())
    with pytest.warns(UserWarning, match="keep their true gradients"):
        varigrad.virtual_gradients(model)
    x = torch.randn(4, 3)
    for network in (model, twin):
        network(x).square().mean().backward()
    for (name, p), (_, q) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert torch.equal(p.grad, q.grad) == (name != "0.weight"), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nn.ReLU, "has no layer"),
        (lambda: nn.LSTM(2, 2), "has no layer"),
        (lambda: nn.LayerNorm(3), "has no layer"),
        (lambda: nn.LazyLinear(3), r"the model \(LazyLinear\) has no parameters yet"),
        (lambda: nn.Sequential(nn.Embedding(3, 2, sparse=True)), r"0 \(Embedding\) has sparse=True"),
    ],
)
@pytest.mark.parametrize("what", [varigrad.virtual_gradients, varigrad.SVGD])
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_model_with_nothing_to_serve_is_refused(make, message, what):
    model = make()
    if what is varigrad.SVGD and message == "has no layer" and not list(model.parameters()):
        message = "empty parameter list"
    with pytest.raises(ValueError, match=message):
        what(model)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"scale": -1.0}, ValueError),
        ({"scale": float("nan")}, ValueError),
        ({"scale": "0.1"}, TypeError),
        ({"rho": 1.0}, ValueError),
        ({"rho": -0.1}, ValueError),
        ({"eps": -1e-9}, ValueError),
        ({"eps": float("inf")}, ValueError),
        ({"per": "pixel"}, ValueError),
        ({"per": None}, TypeError),
        ({"loss_reduction": "none"}, ValueError),
        ({"biases": 1}, TypeError),
    ],
    ids=str,
)
@pytest.mark.parametrize("what", [varigrad.virtual_gradients, varigrad.SVGD])
def test_bad_arguments_are_refused_by_name(what, arguments, error):
    model = nn.Linear(3, 2)
    with pytest.raises(error, match=f"{what.__name__}'s {next(iter(arguments))} = "):
        what(model, **arguments)
    assert "forward" not in vars(model)


def test_parameters_in_place_of_the_model_are_refused():
    with pytest.raises(TypeError, match="not its parameters"):
        varigrad.SVGD(nn.Linear(3, 2).parameters())


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (2.5, TypeError), (True, TypeError)])
def test_a_bad_batch_size_is_refused(size, error):
    with pytest.raises(error, match="batch_size"):
        varigrad.SVGD.authors(nn.Linear(3, 2), batch_size=size)


def test_virtual_gradients_and_other_taps_exclude_each_other():
    model = nn.Linear(3, 2)
    Taps(model, lambda *_: None, substitute=False)
    with pytest.raises(RuntimeError, match="tapped already"):
        varigrad.virtual_gradients(model)


def check_sharded_against_replicated():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    sharded, replicated = matrices(), matrices()
    for layer in (sharded[0], sharded[2], sharded[4], sharded):
        fully_shard(layer, mesh=mesh)
    wrapped = nn.parallel.DistributedDataParallel(replicated)
    networks = [(net, varigrad.SVGD(model, lr=0.1)) for net, model in ((sharded, sharded), (wrapped, replicated))]
    for inputs, targets in data(5, 6, (5,), (3,), seed=torch.distributed.get_rank()):
        for network, optimizer in networks:
            optimizer.zero_grad()
            half_square(network(inputs), targets).backward()
            optimizer.step()
    for mine, theirs in zip(sharded.parameters(), replicated.parameters(), strict=True):
        assert torch.allclose(mine.full_tensor(), theirs, rtol=1e-10)
    squares = [optimizer.virtual_gradients.squares for _, optimizer in networks]
    assert squares[0].keys() == squares[1].keys() == {"0.weight", "2.weight", "4.weight"}


@pytest.mark.skipif(not torch.distributed.is_available() or sys.platform == "win32", reason="needs gloo")
def test_a_sharded_model_takes_the_steps_of_a_replicated_one():
    launch(check_sharded_against_replicated, 2)


def test_a_step_can_be_differentiated_by_its_rate():
    """A step of gradient descent: the slope by the rate is minus the virtual gradient."""
    model = matrices()
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    optimizer = varigrad.SVGD(model, lr=lr, differentiable=True)
    ((inputs, targets),) = data(1, 6, (5,), (3,))
    half_square(model(inputs), targets).backward()
    grads = [p.grad.clone() for p in model.parameters()]
    clones = [p.detach().clone() for p in model.parameters()]
    optimizer.param_groups[0]["params"] = [p.clone() for p in clones]
    for p, g in zip(optimizer.param_groups[0]["params"], grads, strict=True):
        p.grad = g
    optimizer.step()
    total = sum(p.sum() for p in optimizer.param_groups[0]["params"])
    (slope,) = torch.autograd.grad(total, lr)
    assert torch.allclose(slope, -sum(g.sum() for g in grads), rtol=1e-12)


def test_a_closure_is_called_and_schedulers_reach_the_rate():
    model, twin = matrices(), matrices()
    batches = data(6, 6, (5,), (3,))
    optimizer = varigrad.SVGD(model, lr=torch.tensor(0.02, dtype=torch.float64))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5)
    for inputs, targets in batches:

        def closure(inputs=inputs, targets=targets):
            optimizer.zero_grad()
            loss = half_square(model(inputs), targets)
            loss.backward()
            return loss

        assert optimizer.step(closure) > 0
        scheduler.step()
    other = varigrad.SVGD(twin, lr=0.02)
    train(twin, other, batches[:3])
    other.param_groups[0]["lr"] = 0.01
    train(twin, other, batches[3:])
    assert all(torch.allclose(p, q, rtol=1e-12) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_what_decays_is_up_to_the_groups():
    model = matrices()
    groups = varigrad.param_groups(model, weight_decay=0.5)
    optimizer = varigrad.SVGD(model, lr=0.1, param_groups=groups)
    (0 * model(torch.randn(3, 5, dtype=torch.float64))).sum().backward()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    for name, p in model.named_parameters():
        assert torch.allclose(p, before[name] * (0.95 if name.endswith("weight") else 1.0), rtol=1e-12)
