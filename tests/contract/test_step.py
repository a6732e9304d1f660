"""Closures, hooks around the step, zero_grad, repr, and what a step leaves behind."""

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from .contenders import (
    assert_unchanged,
    every_contender,
    every_way,
    every_way_that_tells_autograd,
    feed,
    loss_of,
    network,
    parameters,
    run,
    same,
    snapshot,
    train,
    twins,
)

# ---------------------------------------------------------------- closures


@every_way
@every_contender
def test_a_closure_is_called_once_with_gradients_enabled(make, way):
    model, twin = network(), network()
    optimizer, plain = make(model.parameters(), lr=1e-2, **way), make(twin.parameters(), lr=1e-2, **way)
    enabled, losses = [], []

    def closure():
        enabled.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = loss_of(model, len(losses))
        loss.backward()
        losses.append(loss)
        return loss

    for _ in range(3):
        with torch.no_grad():
            assert optimizer.step(closure) is losses[-1]
            assert not torch.is_grad_enabled()
    assert enabled == [True] * 3
    assert optimizer.step(closure=closure) is losses[-1]
    assert torch.is_grad_enabled()
    train(twin, plain, range(4))
    assert same(model.parameters(), twin.parameters())


@every_contender
def test_what_a_closure_returns_is_returned_as_it_is(make):
    params = parameters()
    optimizer = make(params)
    feed(params, 0)
    result = object()
    assert optimizer.step(lambda: result) is result
    assert optimizer.step(lambda: None) is None
    assert optimizer.step() is None


@every_contender
def test_a_closure_that_fails_changes_nothing(make):
    params = parameters()
    optimizer = make(params)
    run(optimizer, params, range(2))
    before = snapshot(optimizer)

    def closure():
        raise KeyError("data")

    with torch.no_grad():
        with pytest.raises(KeyError, match="data"):
            optimizer.step(closure)
        assert not torch.is_grad_enabled()
    assert_unchanged(optimizer, before)


# ---------------------------------------------------------------- hooks


@every_contender
def test_step_hooks_surround_the_step_in_torchs_order(make):
    params = parameters()
    optimizer, other = make(params), make(parameters())
    calls = []

    def note(name):
        def hook(*arguments):
            # An instance is given by its own step function, so that a global hook can tell who steps.
            if arguments[0] is optimizer:
                calls.append((name, params[0].tolist()))

        return hook

    handles = [
        register_optimizer_step_pre_hook(note("global pre")),
        register_optimizer_step_post_hook(note("global post")),
        optimizer.register_step_pre_hook(note("pre")),
        optimizer.register_step_post_hook(note("post")),
    ]
    start = params[0].tolist()
    try:
        run(optimizer, params, range(1))
        run(other, other.param_groups[0]["params"], range(1))
    finally:
        for handle in handles:
            handle.remove()
    end = params[0].tolist()
    assert start != end
    assert calls == [("global pre", start), ("pre", start), ("post", end), ("global post", end)]
    run(optimizer, params, range(1, 2))
    assert len(calls) == 4


@every_contender
def test_a_global_hook_sees_the_optimizer_and_the_arguments(make):
    params = parameters()
    optimizer = make(params)
    seen = []
    handle = register_optimizer_step_post_hook(lambda *arguments: seen.append(arguments))
    feed(params, 0)

    def closure():
        return 1.0

    try:
        optimizer.step(closure)
        optimizer.step(closure=closure)
    finally:
        handle.remove()
    assert seen[0] == (optimizer, (optimizer, closure), {})
    assert seen[1] == (optimizer, (optimizer,), {"closure": closure})


@every_contender
def test_a_pre_hook_may_change_the_arguments_and_the_gradients(make):
    params = parameters()
    mine = twins(params)
    optimizer, plain = make(params), make(mine)

    def hook(opt, args, kwargs):
        feed(params, 7)
        return (args[0], lambda: "replaced"), kwargs

    feed(params, 0)
    handle = optimizer.register_step_pre_hook(hook)
    assert optimizer.step(lambda: "given") == "replaced"
    handle.remove()
    assert optimizer.step(lambda: "given") == "given"
    run(plain, mine, (7, 7))
    assert same(params, mine)


@every_contender
def test_a_post_hook_may_change_the_parameters(make):
    """Weights are clamped like this."""
    params = parameters()
    optimizer = make(params, lr=0.1)

    def clamp(opt, args, kwargs):
        with torch.no_grad():
            for param in params:
                param.clamp_(-0.05, 0.05)

    optimizer.register_step_post_hook(clamp)
    run(optimizer, params, range(3))
    assert all(param.abs().max() <= 0.05 for param in params)
    assert optimizer.state[params[0]]["step"] == 3


@every_contender
def test_a_wrong_answer_of_a_pre_hook_is_refused(make):
    params = parameters()
    optimizer = make(params)
    feed(params, 0)
    before = snapshot(optimizer)
    optimizer.register_step_pre_hook(lambda *_: "nonsense")
    with pytest.raises(RuntimeError, match="must return None or a tuple"):
        optimizer.step()
    assert_unchanged(optimizer, before)


@every_contender
def test_the_profiler_knows_step_and_zero_grad_by_name(make):
    params = parameters()
    optimizer = make(params)
    feed(params, 0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
        optimizer.zero_grad()
    names = {event.name for event in profile.events()}
    assert {f"Optimizer.step#{make.__name__}.step", f"Optimizer.zero_grad#{make.__name__}.zero_grad"} <= names


# ---------------------------------------------------------------- zero_grad and steps without gradients


@every_way
@every_contender
def test_zero_grad_removes_the_gradients(make, way):
    params = parameters()
    optimizer = make(params, weight_decay=0.1, **way)
    run(optimizer, params, range(2))
    optimizer.zero_grad()
    assert all(param.grad is None for param in params)
    before = snapshot(optimizer)
    optimizer.step()
    assert_unchanged(optimizer, before)


@every_way
@every_contender
def test_zero_grad_can_leave_zeros(make, way):
    """A step on zeros is a step."""
    params = parameters()
    optimizer = make(params, weight_decay=0.1, **way)
    run(optimizer, params, range(2))
    grads = [param.grad for param in params]
    optimizer.zero_grad(set_to_none=False)
    for param, grad in zip(params, grads, strict=True):
        assert param.grad is grad
        assert not grad.any()
        assert not grad.requires_grad
    optimizer.step()
    assert [optimizer.state[param]["step"].item() for param in params] == [3, 3]


@every_way
@every_contender
def test_a_step_without_gradients_is_none(make, way):
    params = parameters()
    mine = twins(params)
    optimizer, plain = make(params, weight_decay=0.1, **way), make(mine, weight_decay=0.1, **way)
    assert optimizer.step() is None
    assert same(params, mine)
    assert not optimizer.state
    run(optimizer, params, range(3))
    run(plain, mine, range(3))
    assert same(params, mine)


@every_contender
def test_a_parameter_without_elements_is_stepped(make):
    param, empty = torch.ones(3, requires_grad=True), torch.ones(0, 3, requires_grad=True)
    optimizer = make([param, empty], lr=0.1)
    run(optimizer, [param, empty], range(2))
    assert (param != 1).any()
    assert empty.shape == (0, 3)


# ---------------------------------------------------------------- what a step leaves behind


@every_way
@every_contender
def test_a_parameter_stays_the_same_leaf(make, way):
    params = parameters()
    places = [param.data_ptr() for param in params]
    optimizer = make(params, **way)
    run(optimizer, params, range(2))
    for param, place in zip(params, places, strict=True):
        assert param.data_ptr() == place
        assert param.is_leaf
        assert param.requires_grad
        assert param.grad_fn is None
        assert not any(value.requires_grad for value in optimizer.state[param].values())


@every_way_that_tells_autograd
def test_autograd_knows_that_a_parameter_has_moved(make, way):
    """A graph from before the step holds the old weights, which are gone: that must be an error, not a wrong number."""
    model = network()
    optimizer = make(model.parameters(), lr=1e-2, **way)
    train(model, optimizer, range(1))
    stale = loss_of(model, 1)
    train(model, optimizer, range(1, 2))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        stale.backward()


# ---------------------------------------------------------------- repr


@every_contender
def test_repr_names_the_class_and_the_hyperparameters_of_each_group(make):
    first, second = parameters()
    optimizer = make([{"params": [first]}, {"params": [second], "weight_decay": 0.125}], lr=0.0625)
    optimizer.param_groups[0]["lr"] = 0.03125
    text = repr(optimizer)
    assert text.startswith(f"{make.__name__} (\nParameter Group 0\n")
    groups = text.split("Parameter Group ")[1:]
    assert len(groups) == 2
    for shown, group in zip(groups, optimizer.param_groups, strict=True):
        lines = shown.splitlines()
        assert {f"    {key}: {value}" for key, value in group.items() if key != "params"} <= set(lines)
        assert set(optimizer.defaults) <= {line.strip().partition(":")[0] for line in lines}
    assert "    lr: 0.03125\n" in groups[0]
    assert "    lr: 0.0625\n" in groups[1]
    assert "    weight_decay: 0.125\n" in groups[1]
    assert "tensor" not in text
