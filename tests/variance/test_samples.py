"""method="vmap" against one backward pass for each sample."""

import pytest
import torch
from torch import nn

import varigrad

from .models import BUILDERS, assert_variances, error, loss_of, problem, single_gradients, variance_of_mean


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_it_is_the_variance_of_gradients_computed_one_by_one(name, chunk_size):
    model, inputs, targets = problem(name)
    samples = single_gradients(model, inputs, targets)
    handle = varigrad.gradient_variance(model, method="vmap")
    loss = handle.compute(loss_of, inputs, targets, chunk_size=chunk_size)
    assert_variances(model, {name: variance_of_mean(grads) for name, grads in samples.items()}, len(targets))
    for name, param in model.named_parameters():
        assert error(param.grad, samples[name].mean(0)) <= 1e-10
    assert abs(loss - loss_of(model(inputs), targets)) <= 1e-12


def test_a_second_call_adds_its_samples():
    model, inputs, targets = problem("mlp")
    exact = {name: variance_of_mean(grads[:10]) for name, grads in single_gradients(model, inputs, targets).items()}
    handle = varigrad.gradient_variance(model, method="vmap")
    for part in (slice(0, 5), slice(5, 10)):
        handle.compute(lambda output, target: loss_of(output, target) / 2, inputs[part], targets[part])
    assert_variances(model, exact, 10)
    model.zero_grad(set_to_none=False)
    handle.compute(loss_of, inputs[:10], targets[:10])
    assert_variances(model, exact, 10)


def test_inputs_may_be_positional_or_keyword_arguments_and_targets_absent():
    model = nn.Bilinear(3, 4, 2).double()
    a, b = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    found = []
    for inputs in ((a, b), [a, b], {"input1": a, "input2": b}):
        with varigrad.gradient_variance(model, method="vmap") as handle:
            handle.compute(lambda output, target: output.square().sum(), inputs, None)
            found.append(model.weight.grad_variance)
        model.zero_grad()
    rows = [torch.autograd.grad(model(a[n : n + 1], b[n : n + 1]).square().sum(), model.weight)[0] for n in range(5)]
    for variance in found:
        assert error(variance, variance_of_mean(torch.stack(rows))) <= 1e-12


def test_every_sample_has_a_dropout_mask_of_its_own():
    model = nn.Sequential(nn.Linear(1, 50, bias=False), nn.Dropout(0.5)).double()
    with varigrad.gradient_variance(model, method="vmap") as handle:
        handle.compute(lambda output, target: output.sum(), torch.ones(40, 1, dtype=torch.float64), None)
        # A gradient is 0 or 2 with equal probability: its variance is 1, that of the mean of 40 is 1/40, within
        # 4 standard errors of the mean over 50 such estimates.
        assert abs(model[0].weight.grad_variance.mean() * 40 - 1) <= 4 * (2 / 39 / 50) ** 0.5


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.BatchNorm1d(3), torch.randn(4, 3)),
        (nn.BatchNorm1d(3, track_running_stats=False).eval(), torch.randn(4, 3)),
        (nn.InstanceNorm1d(3, affine=True, track_running_stats=True), torch.randn(4, 3, 5)),
    ],
)
def test_statistics_over_the_batch_are_refused_by_name(layer, inputs):
    handle = varigrad.gradient_variance(nn.Sequential(nn.Identity(), layer), method="vmap")
    with pytest.raises(RuntimeError, match=rf"but 1, a {type(layer).__name__}, computes statistics over the batch"):
        handle.compute(lambda output, target: output.sum(), inputs, None)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((torch.randn(1, 5), torch.randn(1, 3)), ValueError, "at least 2 samples, and inputs and targets have 1"),
        ((torch.randn(4, 5), torch.randn(3, 3)), ValueError, r"have \[3, 4\] samples"),
        ((torch.randn(4, 5), None), ValueError, "one number for one sample"),
    ],
)
def test_wrong_batches_are_refused(arguments, error, text):
    model = nn.Linear(5, 3)
    handle = varigrad.gradient_variance(model, method="vmap")
    loss = loss_of if arguments[1] is not None else (lambda output, target: output)
    with pytest.raises(error, match=text):
        handle.compute(loss, *arguments)
    assert model.weight.grad is None


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (2.0, TypeError), (True, TypeError)])
def test_a_wrong_chunk_size_is_refused(size, error):
    handle = varigrad.gradient_variance(nn.Linear(5, 3), method="vmap")
    with pytest.raises(error, match=f"chunk_size = {size}"):
        handle.compute(loss_of, torch.randn(4, 5), torch.randn(4, 3), chunk_size=size)


def test_compute_belongs_to_vmap_alone():
    handle = varigrad.gradient_variance(nn.Linear(5, 3), method="layers")
    with pytest.raises(RuntimeError, match="compute belongs to method='vmap'"):
        handle.compute(loss_of, torch.randn(4, 5), torch.randn(4, 3))
