"""VSGD and MSVAG with variance="batch", trained by each method: the reference fed with every sample's gradient."""

import numpy as np
import pytest
import torch

import varigrad
from tests import reference

from .models import error, loss_of, problem, single_gradients

STEPS = 5
RULES = {
    "VSGD": (lambda params: varigrad.VSGD(params, lr=1e-2, variance="batch"), reference.vsgd_per_sample),
    "MSVAG": (lambda params: varigrad.MSVAG(params, lr=1e-2, variance="batch"), reference.msvag_minibatch),
}


def batches(inputs, targets):
    """A batch of all samples but one, another one in every step."""
    for step in range(STEPS):
        kept = [n for n in range(len(targets)) if n != step]
        yield inputs[kept], targets[kept]


def gradients(handle, model, inputs, targets):
    """Puts gradient and variance in place; returns every sample's gradient, of a chunk of two for "microbatch"."""
    handle.remove()
    singles = single_gradients(model, inputs, targets)
    if handle.method == "microbatch":
        singles = {name: grads.unflatten(0, (-1, 2)).mean(1) for name, grads in singles.items()}
    handle = varigrad.gradient_variance(model, method=handle.method)
    if handle.method == "vmap":
        handle.compute(loss_of, inputs, targets)
    elif handle.method == "layers":
        loss_of(model(inputs), targets).backward()
    else:
        for one, other in zip(inputs.split(2), targets.split(2), strict=True):
            (loss_of(model(one), other) * 2 / len(targets)).backward()
    return handle, singles


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("method", "name"),
    [("layers", "mlp"), ("vmap", "mlp"), ("microbatch", "mlp"), ("layers", "tied"), ("layers", "transformer")],
)
def test_training_is_the_reference_on_every_samples_gradient(method, name, rule):
    model, inputs, targets = problem(name)
    build, oracle = RULES[rule]
    start = {name: param.detach().clone() for name, param in model.named_parameters()}
    history = {name: [] for name in start}
    optimizer = build(model.named_parameters())
    handle = varigrad.gradient_variance(model, method=method)
    for one, other in batches(inputs, targets):
        handle, singles = gradients(handle, model, one, other)
        for name, grads in singles.items():
            history[name].append(grads.numpy())
        optimizer.step()
        optimizer.zero_grad()
    for name, param in model.named_parameters():
        expected = oracle(start[name].numpy(), history[name], 1e-2)[-1]
        moved = np.abs(expected - start[name].numpy()).max()
        assert np.abs(param.detach().numpy() - expected).max() <= 1e-9 * moved, name


@pytest.mark.parametrize("rule", RULES)
def test_the_variance_inside_the_batch_matters(rule):
    """The same gradients with another spread end elsewhere: what the tests above compare is no constant."""
    ends = []
    for spread in (0.0, 1.0):
        model = torch.nn.Linear(4, 1, bias=False, dtype=torch.float64)
        torch.nn.init.zeros_(model.weight)
        optimizer = RULES[rule][0](model.parameters())
        with varigrad.gradient_variance(model):
            for _ in range(STEPS):
                x = torch.ones(6, 4, dtype=torch.float64)
                x[::2] += spread
                x[1::2] -= spread
                model(x).mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        ends.append(model.weight.detach())
    assert error(ends[0], ends[1]) > 1e-3
