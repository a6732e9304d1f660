"""What is put around a training loop: clipping, averages, loss scaling, accumulation, steps in the backward pass."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import varigrad

from .contenders import (
    assert_unchanged,
    batch,
    every_contender,
    every_way,
    every_way_that_knows_strides,
    loss_of,
    network,
    same,
    snapshot,
    train,
)

# ---------------------------------------------------------------- averages


@every_contender
def test_an_average_of_the_weights_follows_and_does_not_disturb(make):
    model, twin = network(), network()
    optimizer, plain = make(model.parameters(), lr=1e-2), make(twin.parameters(), lr=1e-2)
    average = AveragedModel(model)
    moving = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    trail = []
    for step in range(4):
        train(model, optimizer, [step])
        train(twin, plain, [step])
        average.update_parameters(model)
        moving.update_parameters(model)
        trail.append([param.detach().clone() for param in model.parameters()])
    assert same(model.parameters(), twin.parameters())
    for index, (mean, ema) in enumerate(zip(average.parameters(), moving.parameters(), strict=True)):
        a, b, c, d = (weights[index] for weights in trail)
        assert not torch.equal(a, d)
        torch.testing.assert_close(mean, (a + b + c + d) / 4)
        torch.testing.assert_close(ema, a / 8 + b / 8 + c / 4 + d / 2)


@every_contender
def test_training_goes_on_from_averaged_weights(make):
    """The values of the parameters are replaced between two steps; the optimizer must read them anew."""
    model, twin = network(), network()
    optimizer = make(model.parameters(), lr=1e-2)
    average = AveragedModel(model)
    for step in range(3):
        train(model, optimizer, [step])
        average.update_parameters(model)
    model.load_state_dict(average.module.state_dict())
    twin.load_state_dict(average.module.state_dict())
    saved = copy.deepcopy(optimizer.state_dict())
    plain = make(twin.parameters())
    plain.load_state_dict(saved)
    train(model, optimizer, range(3, 6))
    train(twin, plain, range(3, 6))
    assert same(model.parameters(), twin.parameters())
    assert not same(model.parameters(), average.module.parameters())


# ---------------------------------------------------------------- clipping

CLIPPERS = {
    "norm": lambda params: nn.utils.clip_grad_norm_(params, 0.1),
    "norm by one": lambda params: nn.utils.clip_grad_norm_(params, 0.1, foreach=False),
    "value": lambda params: nn.utils.clip_grad_value_(params, 0.02),
}


@every_way
@pytest.mark.parametrize("clip", CLIPPERS.values(), ids=CLIPPERS)
@every_contender
def test_clipped_gradients_are_what_is_stepped_on(make, way, clip):
    model, twin = network(), network()
    optimizer, plain = make(model.parameters(), lr=1e-2, **way), make(twin.parameters(), lr=1e-2, **way)
    for step in range(4):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        raw = [param.grad.clone() for param in model.parameters()]
        clip(model.parameters())
        clipped = [param.grad.clone() for param in model.parameters()]
        assert not same(raw, clipped)
        optimizer.step()
        # The gradient is still the clipped one afterwards, for whoever logs it.
        assert same([param.grad for param in model.parameters()], clipped)
        for param, gradient in zip(twin.parameters(), clipped, strict=True):
            param.grad = gradient
        plain.step()
    assert same(model.parameters(), twin.parameters())


# ---------------------------------------------------------------- a step in the backward pass


@every_way
@every_contender
def test_steps_in_the_backward_pass_are_one_step_after_it(make, way):
    """One optimizer per parameter, each stepped as soon as its gradient is there, which is then freed."""
    settings = {"lr": 1e-2, "weight_decay": 0.1, **way}
    model, twin = network(), network()
    optimizers = {param: make([param], **settings) for param in model.parameters()}

    def hook(param):
        optimizers[param].step()
        optimizers[param].zero_grad()

    for param in model.parameters():
        param.register_post_accumulate_grad_hook(hook)
    for step in range(4):
        loss_of(model, step).backward()
        assert all(param.grad is None for param in model.parameters())
    plain = make(twin.parameters(), **settings)
    train(twin, plain, range(4))
    assert same(model.parameters(), twin.parameters())
    for (param, optimizer), other in zip(optimizers.items(), twin.parameters(), strict=True):
        assert same(optimizer.state[param].values(), plain.state[other].values())


# ---------------------------------------------------------------- loss scaling


def scaled_step(model, optimizer, scaler, step, poison=None):
    optimizer.zero_grad()
    scaler.scale(loss_of(model, step)).backward()
    if poison is not None:
        model[0].weight.grad[1, 2] = poison
    scaler.step(optimizer)
    scaler.update()


@every_way
@every_contender
def test_a_scaled_step_is_the_unscaled_one(make, way):
    model, twin = network(), network()
    optimizer, plain = make(model.parameters(), lr=1e-2, **way), make(twin.parameters(), lr=1e-2, **way)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    for step in range(4):
        scaled_step(model, optimizer, scaler, step)
    train(twin, plain, range(4))
    assert scaler.get_scale() == 2.0**12
    assert [optimizer.state[param]["step"].item() for param in model.parameters()] == [4] * 4
    for param, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(param, other, rtol=1e-6, atol=1e-8)


@every_way
@every_contender
@pytest.mark.parametrize("poison", [float("inf"), float("nan")])
def test_a_step_that_overflows_is_skipped_wholly(make, way, poison):
    model, twin = network(), network()
    settings = {"lr": 1e-2, "weight_decay": 0.1, **way}
    optimizer, plain = make(model.parameters(), **settings), make(twin.parameters(), **settings)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaled_step(model, optimizer, scaler, 0)
    before = snapshot(optimizer)
    scaled_step(model, optimizer, scaler, 1, poison)
    assert_unchanged(optimizer, before)
    assert scaler.get_scale() == 2.0**9
    scaled_step(model, optimizer, scaler, 2)
    train(twin, plain, (0, 2))
    for param, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(param, other, rtol=1e-6, atol=1e-8)


@every_way
@every_contender
def test_an_overflow_at_the_first_step_leaves_a_fresh_start(make, way):
    """It is the usual case: the scale is found by trying."""
    model, twin = network(), network()
    optimizer, plain = (make(each.parameters(), lr=1e-2, weight_decay=0.1, **way) for each in (model, twin))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaled_step(model, optimizer, scaler, 0, float("inf"))
    assert same(model.parameters(), twin.parameters())
    for step in range(1, 3):
        scaled_step(model, optimizer, scaler, step)
    train(twin, plain, range(1, 3))
    assert optimizer.state[model[0].weight]["step"] == 2
    for param, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(param, other, rtol=1e-6, atol=1e-8)


@every_way
@every_contender
def test_gradients_may_be_unscaled_and_clipped_before_the_step(make, way):
    model, twin = network(), network()
    optimizer, plain = make(model.parameters(), lr=1e-2, **way), make(twin.parameters(), lr=1e-2, **way)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(3):
        optimizer.zero_grad()
        plain.zero_grad()
        scaler.scale(loss_of(model, step)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_value_(model.parameters(), 0.02)
        scaler.step(optimizer)
        scaler.update()
        loss_of(twin, step).backward()
        nn.utils.clip_grad_value_(twin.parameters(), 0.02)
        plain.step()
    for param, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(param, other, rtol=1e-6, atol=1e-8)


@every_contender
def test_the_compiled_step_undoes_the_scale_itself(make):
    """Its scale need not be a power of two; and unlike torch's own, it leaves the scaled gradients as they are."""
    if make is torch.optim.AdamW:
        pytest.skip("torch's own writes to the gradients")
    model, twin = network(), network()
    optimizer, plain = make(model.parameters(), lr=1e-2, fused=True), make(twin.parameters(), lr=1e-2, fused=False)
    scalers = [torch.amp.GradScaler("cpu", init_scale=1000.0) for _ in range(2)]
    for step in range(3):
        for each, scaler, net in ((plain, scalers[1], twin), (optimizer, scalers[0], model)):
            each.zero_grad()
            scaler.scale(loss_of(net, step)).backward()
            scaled = [param.grad.clone() for param in net.parameters()]
            scaler.step(each)
            scaler.update()
        assert same(scaled, [param.grad for param in model.parameters()])
        for param, other in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(param, other, rtol=1e-6, atol=1e-8)
            torch.testing.assert_close(other.grad * 1000, param.grad, rtol=1e-5, atol=1e-6)
    assert not hasattr(optimizer, "grad_scale")


@every_contender
def test_one_scaler_skips_only_the_optimizer_that_overflowed(make):
    model = network()
    body, head = make(model[0].parameters(), lr=1e-2), make(model[2].parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for poison in (None, float("inf")):
        model.zero_grad()
        scaler.scale(loss_of(model, 0)).backward()
        if poison is not None:
            model[0].bias.grad[0] = poison
        before = snapshot(body), snapshot(head)
        scaler.step(body)
        scaler.step(head)
        scaler.update()
    assert_unchanged(body, before[0])
    assert head.state[model[2].weight]["step"] == 2
    assert not any(torch.equal(a, b) for a, b in zip(model[2].parameters(), before[1][0], strict=True))
    assert scaler.get_scale() == 2.0**9


@every_contender
def test_a_scaler_that_is_switched_off_passes_everything_on(make):
    model, twin = network(), network()
    optimizer, plain = make(model.parameters(), lr=1e-2), make(twin.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for step in range(3):
        scaled_step(model, optimizer, scaler, step)
    train(twin, plain, range(3))
    assert same(model.parameters(), twin.parameters())


@every_contender
def test_autocast_trains_float32_weights(make):
    model = network()
    start = copy.deepcopy(model)
    optimizer = make(model.parameters(), lr=1e-2)
    for step in range(3):
        inputs, targets = batch(step)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(inputs)
            loss = nn.functional.mse_loss(outputs.float(), targets)
        assert outputs.dtype is torch.bfloat16
        loss.backward()
        optimizer.step()
    for param, before in zip(model.parameters(), start.parameters(), strict=True):
        assert param.dtype is torch.float32
        assert not torch.equal(param, before)
        assert {value.dtype for value in optimizer.state[param].values()} == {torch.float32}


# ---------------------------------------------------------------- accumulation


@every_way
@every_contender
def test_accumulated_gradients_are_those_of_the_joined_batch(make, way):
    model, twin = network(dtype=torch.float64), network(dtype=torch.float64)
    optimizer, plain = make(model.parameters(), lr=1e-2, **way), make(twin.parameters(), lr=1e-2, **way)
    for step in range(3):
        inputs, targets = batch(step, torch.float64)
        optimizer.zero_grad(set_to_none=step > 1)
        for part in range(4):
            rows = slice(4 * part, 4 * part + 4)
            (nn.functional.mse_loss(model(inputs[rows]), targets[rows]) / 4).backward()
        optimizer.step()
    train(twin, plain, range(3))
    assert optimizer.state[model[0].weight]["step"] == 3
    for param, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(param, other, rtol=1e-8, atol=1e-10)


@every_contender
def test_gradients_that_are_not_reset_are_added_up(make):
    """The optimizer does not reset them, however it steps."""
    model, twin = network(), network()
    optimizer, plain = make(model.parameters(), lr=1e-2), make(twin.parameters(), lr=1e-2)
    total = [torch.zeros_like(param) for param in twin.parameters()]
    for step in range(3):
        loss_of(model, step).backward()
        twin.zero_grad()
        loss_of(twin, step).backward()
        for kept, param in zip(total, twin.parameters(), strict=True):
            param.grad = kept.add_(param.grad).clone()
        optimizer.step()
        plain.step()
    assert same(model.parameters(), twin.parameters())


# ---------------------------------------------------------------- layout and dtype


def convolutions(dtype=torch.float64):
    # A bias before a normalization would have gradients of mere rounding, whose signs mean nothing.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (
            nn.Conv2d(3, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 2, 3),
            nn.AdaptiveAvgPool2d(1),
        )
        return nn.Sequential(*layers, nn.Flatten()).to(dtype)


def image_steps(model, optimizer, memory_format, mixed=False):
    for step in range(3):
        images = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(images.to(memory_format=memory_format)).square().mean().backward()
        if mixed:
            for param in model.parameters():
                param.grad = param.grad.contiguous()
        optimizer.step()


@every_way_that_knows_strides
@pytest.mark.parametrize("mixed", [False, True], ids=["alike", "contiguous gradients"])
def test_channels_last_is_only_a_layout(make, way, mixed):
    model, twin = convolutions().to(memory_format=torch.channels_last), convolutions()
    optimizer, plain = (make(each.parameters(), lr=1e-2, weight_decay=0.1, **way) for each in (model, twin))
    image_steps(model, optimizer, torch.channels_last, mixed)
    image_steps(twin, plain, torch.contiguous_format)
    assert not model[0].weight.is_contiguous()
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    for param, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(param, other, rtol=1e-7, atol=1e-9)


@every_contender
def test_a_state_fits_a_model_of_another_layout(make):
    """Saved contiguous, loaded into a model that is channels_last."""
    model = convolutions()
    optimizer = make(model.parameters(), lr=1e-2)
    image_steps(model, optimizer, torch.contiguous_format)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    resumed = make(other.parameters())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    image_steps(model, optimizer, torch.contiguous_format)
    image_steps(other, resumed, torch.channels_last)
    for param, twin in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(param, twin, rtol=1e-7, atol=1e-9)


@every_way
@every_contender
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_model_is_moved_to_another_dtype_and_its_state_loaded(make, way, dtype):
    """The way that torch has for it: move the model, make the optimizer anew, load the state."""
    model = network()
    optimizer = make(model.parameters(), lr=1e-2, **way)
    train(model, optimizer, range(3))
    moved = copy.deepcopy(model).to(dtype)
    start = copy.deepcopy(moved)
    resumed = make(moved.parameters(), lr=1e-2, **way)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    # On gradients of one source, so that only the optimizers differ.
    for step in range(3, 6):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        for param, other in zip(model.parameters(), moved.parameters(), strict=True):
            param.grad = param.grad.to(torch.bfloat16).float()
            other.grad = param.grad.to(dtype)
        optimizer.step()
        resumed.step()
    # Three roundings of a weight below one in bfloat16, and of AdamW's statistics.
    tolerance = 1e-5 if dtype is torch.float64 else 1.5e-2
    if make is varigrad.AdaptiveMuon:  # whose iterations compute in bfloat16 unless the parameters are of 64 bits
        tolerance = max(tolerance, 1.5e-3)  # a tenth of three steps of 0.2 √6 lr
    for param, other, before in zip(model.parameters(), moved.parameters(), start.parameters(), strict=True):
        assert other.dtype is dtype
        assert resumed.state[other]["step"] == 6
        assert not torch.equal(other, before)
        torch.testing.assert_close(other.float(), param, rtol=0, atol=tolerance)


@every_contender
def test_parameters_of_several_dtypes_share_a_group(make):
    layers = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3).double(), "c": nn.Linear(3, 3).bfloat16()})
    alone = copy.deepcopy(layers)
    together = make(layers.parameters(), lr=1e-2)
    apart = {name: make(layer.parameters(), lr=1e-2) for name, layer in alone.items()}
    for step in range(3):
        for net in (layers, alone):
            for param in net.parameters():
                generator = torch.Generator().manual_seed(step)
                param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        together.step()
        for each in apart.values():
            each.step()
    assert same(layers.parameters(), alone.parameters())
    assert [layers[name].weight.dtype for name in "abc"] == [torch.float32, torch.float64, torch.bfloat16]
