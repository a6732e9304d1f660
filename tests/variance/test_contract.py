"""What every method promises: the handle, its choice, its errors, and that nothing stale is ever stepped on."""

import copy
import gc
import logging
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks

import varigrad

from .models import error, loss_of, problem

BACKWARD = ("layers", "microbatch")


def run(model, handle, inputs, targets):
    """One gradient with its variance, from two halves of a batch where one is not enough."""
    if handle.method == "vmap":
        handle.compute(loss_of, inputs, targets)
        return
    halves = inputs.chunk(2), targets.chunk(2)
    for one, other in zip(*halves, strict=True) if handle.method == "microbatch" else [(inputs, targets)]:
        loss_of(model(one), other).backward()


def insides(model):
    """All that a module keeps, to see whether something was left behind."""
    return [
        {key: list(value) if isinstance(value, dict) else value for key, value in vars(module).items()}
        for module in model.modules()
    ] + [(dict(vars(p)), p._backward_hooks, p._post_accumulate_grad_hooks) for p in model.parameters()]


@pytest.mark.parametrize("method", ["layers", "vmap", "microbatch"])
def test_remove_leaves_the_model_as_it_was(method):
    model, inputs, targets = problem("mlp")
    loss_of(model(inputs), targets).backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for param in model.parameters():  # torch makes these at the first hook
        param.register_hook(print).remove()
        param.register_post_accumulate_grad_hook(print).remove()
    before = insides(model)
    handle = varigrad.gradient_variance(model, method=method)
    run(model, handle, inputs, targets)
    assert all(p.grad_samples > 1 for p in model.parameters())
    handle.remove()
    handle.remove()
    model.zero_grad()
    assert insides(model) == before
    loss_of(model(inputs), targets).backward()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), plain, strict=True))
    assert not hasattr(next(model.parameters()), "grad_variance")


@pytest.mark.parametrize("method", BACKWARD)
def test_one_handle_at_a_time(method):
    model = nn.Linear(3, 2)
    with varigrad.gradient_variance(model, method=method):
        for other in BACKWARD:
            with pytest.raises(ValueError, match=f"weight is served by gradient_variance.method='{method}'"):
                varigrad.gradient_variance(nn.Sequential(model), method=other)
    varigrad.gradient_variance(model, method=method)


@pytest.mark.parametrize("method", BACKWARD)
def test_a_copy_of_the_model_is_plain(method):
    model, inputs, targets = problem("mlp")
    varigrad.gradient_variance(model, method=method)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        loss_of(other(inputs), targets).backward()
        assert not any(hasattr(p, "grad_variance") for p in other.parameters())
    assert not any(hasattr(p, "grad_variance") for p in model.parameters())


def test_auto_chooses_layers_where_it_can_and_says_so(caplog):
    with caplog.at_level(logging.INFO, logger="varigrad"):
        handle = varigrad.gradient_variance(nn.Linear(3, 2))
    assert handle.method == "layers"
    assert "method='layers', because every parameter belongs to a layer" in caplog.text
    assert repr(handle).startswith("gradient_variance(method='layers', 2 parameters): every parameter belongs")


def test_auto_falls_back_to_microbatches_and_says_why(caplog):
    with caplog.at_level(logging.INFO, logger="varigrad"):
        handle = varigrad.gradient_variance(nn.Sequential(nn.Linear(3, 3), nn.GRU(3, 2)))
    assert handle.method == "microbatch"
    assert "the parameter weight_ih_l0 of 1 (GRU) belongs to no layer that is known" in caplog.text
    assert "two backward passes" in handle.reason


@pytest.mark.parametrize(
    ("model", "arguments", "error", "text"),
    [
        (nn.Linear(3, 2).parameters(), {}, TypeError, "needs a torch.nn.Module, not generator"),
        (nn.ReLU(), {}, ValueError, "this has none"),
        (nn.Linear(3, 2).requires_grad_(False), {}, ValueError, "this has none"),
        (nn.Linear(3, 2), {"method": "layer"}, ValueError, "method = 'layer' is not accepted"),
        (nn.Linear(3, 2), {"batch_dim": 2}, ValueError, "batch_dim = 2 is not accepted"),
        (nn.Linear(3, 2), {"batch_dim": True}, TypeError, "batch_dim = True is not accepted"),
        (nn.Linear(3, 2), {"penalty": 1}, TypeError, "penalty = 1 is not accepted"),
        (nn.Linear(3, 2), {"method": "vmap", "penalty": True}, ValueError, "belong to method='layers'"),
        (nn.Linear(3, 2), {"method": "ranks"}, TypeError, "not a Linear"),
        (nn.Linear(3, 2, dtype=torch.complex64), {"method": "microbatch"}, TypeError, "weight, which is torch.complex"),
        (nn.LazyLinear(2), {"method": "layers"}, ValueError, "weight, which has no shape yet"),
        (nn.Embedding(3, 2, sparse=True), {"method": "layers"}, ValueError, "sparse=False"),
    ],
)
def test_wrong_arguments_are_named(model, arguments, error, text):
    with pytest.raises(error, match=text):
        varigrad.gradient_variance(model, **arguments)


def test_sparse_gradients_are_refused_when_they_come():
    model = nn.Embedding(3, 2, sparse=True)
    varigrad.gradient_variance(model, method="microbatch")
    with pytest.raises(RuntimeError, match="needs dense gradients, but weight has a sparse one"):
        model(torch.tensor([1, 2])).sum().backward()


@pytest.mark.parametrize("method", ["layers", "vmap", "microbatch"])
def test_a_model_that_nobody_needs_goes_with_its_handle(method):
    model, inputs, targets = problem("mlp")
    handle = varigrad.gradient_variance(model, method=method)
    run(model, handle, inputs, targets)
    optimizer = varigrad.VSGD(model.parameters(), variance="batch")
    optimizer.step()
    gone = weakref.ref(handle), weakref.ref(model)
    hooks = len(_global_optimizer_pre_hooks)
    del model, handle, optimizer
    gc.collect()
    assert gone[0]() is None
    assert gone[1]() is None
    assert len(_global_optimizer_pre_hooks) < hooks


# ---------------------------------------------------------------- from the backward pass to the step


@pytest.mark.parametrize("method", ["layers", "vmap", "microbatch"])
def test_older_gradients_are_not_silently_taken_in(method):
    model, inputs, targets = problem("mlp")
    loss_of(model(inputs), targets).backward()
    handle = varigrad.gradient_variance(model, method=method)
    with pytest.raises(RuntimeError, match=r"older gradient.*call zero_grad\(\) before"):
        run(model, handle, inputs, targets)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("method", ["layers", "vmap", "microbatch"])
def test_after_a_step_and_zero_grad_the_sums_start_anew(method, set_to_none):
    model, inputs, targets = problem("mlp")
    inputs, targets = inputs[:10], targets[:10]
    handle = varigrad.gradient_variance(model, method=method)
    optimizer = varigrad.MSVAG(model.parameters(), lr=0.0, variance="batch")
    found = []
    for _ in range(3):
        run(model, handle, inputs, targets)
        found.append(torch.cat([p.grad_variance.flatten() for p in model.parameters()]))
        assert {p.grad_samples for p in model.parameters()} == {2 if method == "microbatch" else 10}
        optimizer.step()
        optimizer.zero_grad(set_to_none=set_to_none)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("method", ["layers", "vmap", "microbatch"])
@pytest.mark.parametrize("optimizer", [varigrad.VSGD, varigrad.MSVAG])
def test_clipped_gradients_are_refused_until_the_variance_is_told(method, optimizer):
    model, inputs, targets = problem("mlp")
    handle = varigrad.gradient_variance(model, method=method)
    stepper = optimizer(model.named_parameters(), lr=0.1, variance="batch")
    run(model, handle, inputs, targets)
    before = [p.grad_variance.clone() for p in model.parameters()]
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    assert norm > 0.02
    with pytest.raises(RuntimeError, match=r"cannot step 0\.weight: its gradient has been changed.*rescale"):
        stepper.step()
    handle.rescale(0.01 / (norm + 1e-6))
    stepper.step()
    for param, variance in zip(model.parameters(), before, strict=True):
        assert error(param.grad_variance, variance * (0.01 / (norm + 1e-6)) ** 2) <= 1e-12


@pytest.mark.parametrize("method", BACKWARD)
def test_a_grad_scaler_is_noticed_although_it_counts_no_version(method):
    model, inputs, targets = problem("mlp", torch.float32)
    handle = varigrad.gradient_variance(model, method=method)
    optimizer = varigrad.VSGD(model.parameters(), lr=0.1, variance="batch")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    halves = list(zip(inputs.chunk(2), targets.chunk(2), strict=True))
    for one, other in halves if method == "microbatch" else [(inputs, targets)]:
        scaler.scale(loss_of(model(one), other)).backward()
    scaled = model[0].weight.grad_variance.clone()
    with pytest.raises(RuntimeError, match="has been changed since backward"):
        scaler.step(optimizer)
    handle.rescale(1 / scaler.get_scale())
    assert torch.equal(model[0].weight.grad_variance, scaled / 1024**2)
    before = model[0].weight.detach().clone()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(model[0].weight, before)


def test_other_optimizers_may_step_on_clipped_gradients():
    model, inputs, targets = problem("mlp")
    handle = varigrad.gradient_variance(model)
    run(model, handle, inputs, targets)
    nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    torch.optim.AdamW(model.parameters()).step()
    varigrad.VSGD(model.parameters(), lr=0.1).step()


def test_a_gradient_that_the_handle_has_not_seen_is_refused():
    model, inputs, targets = problem("mlp")
    model[0].bias.requires_grad_(False)
    handle = varigrad.gradient_variance(model)
    run(model, handle, inputs, targets)
    model[2].weight.grad = torch.ones_like(model[2].weight)
    with pytest.raises(RuntimeError, match=r"cannot step 2\.weight"):
        varigrad.VSGD(model.parameters(), variance="batch").step()
    handle.remove()
    with pytest.raises(RuntimeError, match="its grad_variance is missing"):
        varigrad.VSGD(model.parameters(), variance="batch").step()


@pytest.mark.parametrize("method", BACKWARD)
def test_a_closure_computes_what_its_step_uses(method):
    model, inputs, targets = problem("mlp")
    handle = varigrad.gradient_variance(model, method=method)
    optimizer = varigrad.MSVAG(model.parameters(), lr=0.1, variance="batch")

    def closure():
        optimizer.zero_grad()
        run(model, handle, inputs, targets)
        return loss_of(model(inputs), targets)

    assert optimizer.step(closure) > optimizer.step(closure)
