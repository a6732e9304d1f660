"""method="microbatch": every backward pass between two steps is a sample."""

import pytest
import torch
from torch import nn

import varigrad

from .models import assert_variances, error, loss_of, problem, variance_of_mean


def chunk_gradients(model, inputs, targets, chunks):
    """The gradient of every chunk's mean loss."""
    names, params = zip(*model.named_parameters(), strict=True)
    parts = zip(inputs.chunk(chunks), targets.chunk(chunks), strict=True)
    rows = [torch.autograd.grad(loss_of(model(one), other), params) for one, other in parts]
    return {name: torch.stack(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


@pytest.mark.parametrize("divide", [True, False])
@pytest.mark.parametrize("chunks", [2, 3, 11])
def test_it_is_the_variance_of_the_chunks_whether_they_are_averaged_or_added(chunks, divide):
    model, inputs, targets = problem("mlp")
    samples = chunk_gradients(model, inputs, targets, chunks)
    factor = 1 / chunks if divide else 1.0
    exact = {name: variance_of_mean(grads * factor * chunks) for name, grads in samples.items()}
    with varigrad.gradient_variance(model, method="microbatch"):
        for _ in range(2):
            for one, other in zip(inputs.chunk(chunks), targets.chunk(chunks), strict=True):
                (factor * loss_of(model(one), other)).backward()
            assert_variances(model, exact, chunks)
            model.zero_grad()


def test_it_serves_any_model():
    torch.manual_seed(0)
    model = nn.GRU(3, 4, batch_first=True).double()
    x = torch.randn(8, 5, 3, dtype=torch.float64)
    rows = [torch.autograd.grad(model(part)[0].sum(), list(model.parameters())) for part in x.chunk(4)]
    exact = {
        name: variance_of_mean(4 * torch.stack(column))
        for (name, _), column in zip(model.named_parameters(), zip(*rows, strict=True), strict=True)
    }
    with varigrad.gradient_variance(model) as handle:
        assert handle.method == "microbatch"
        for part in x.chunk(4):
            model(part)[0].sum().backward()
        assert_variances(model, exact, 4)


def test_large_means_do_not_cancel():
    """Squares of differences: a spread of 1e-4 around a mean of 1 is found in float32."""
    model = nn.Linear(1, 1, bias=False)
    values = 1 + 1e-4 * torch.randn(50, generator=torch.Generator().manual_seed(0))
    with varigrad.gradient_variance(model, method="microbatch"):
        for value in values:
            model(value.view(1, 1)).sum().backward()
        exact = 50**2 * variance_of_mean(values.double())
        assert abs(model.weight.grad_variance.item() / exact - 1) <= 1e-2


@pytest.mark.parametrize("used", [(0, 1), (1, 2), (0, 2), (0,), (2,)])
def test_a_pass_without_a_gradient_is_a_gradient_of_zero(used):
    model = nn.ModuleDict({"always": nn.Linear(1, 1, bias=False), "sometimes": nn.Linear(1, 1, bias=False)}).double()
    values = torch.tensor([1.0, 3.0, -4.0], dtype=torch.float64)
    with varigrad.gradient_variance(model, method="microbatch"):
        for index, value in enumerate(values):
            out = model["always"](value.view(1, 1))
            if index in used:
                out = out + model["sometimes"](value.view(1, 1))
            out.sum().backward()
        seen = torch.stack([value if index in used else 0 * value for index, value in enumerate(values)])
        weight = model["sometimes"].weight
        assert weight.grad_samples == 3
        assert error(weight.grad_variance, 9 * variance_of_mean(seen)) <= 1e-12


def test_one_pass_is_not_enough_and_the_step_says_so():
    model, inputs, targets = problem("mlp")
    varigrad.gradient_variance(model, method="microbatch")
    loss_of(model(inputs), targets).backward()
    assert not hasattr(model[0].weight, "grad_variance")
    with pytest.raises(RuntimeError, match="has seen one backward pass since the last step, and a variance needs two"):
        varigrad.VSGD(model.parameters(), variance="batch").step()


def test_autograd_grad_is_no_pass():
    model, inputs, targets = problem("mlp")
    exact = {name: variance_of_mean(2 * g) for name, g in chunk_gradients(model, inputs, targets, 2).items()}
    with varigrad.gradient_variance(model, method="microbatch"):
        for one, other in zip(inputs.chunk(2), targets.chunk(2), strict=True):
            torch.autograd.grad(loss_of(model(one), other), list(model.parameters()))
            loss_of(model(one), other).backward()
        torch.autograd.grad(loss_of(model(inputs), targets), list(model.parameters()))
        assert_variances(model, exact, 2)


def test_bfloat16_gradients_have_float32_variances():
    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    with varigrad.gradient_variance(model, method="microbatch"):
        for value in (1.0, 2.0, 4.0):
            model(torch.tensor([[value]], dtype=torch.bfloat16)).sum().backward()
        assert model.weight.grad_variance.dtype is torch.float32
        assert abs(model.weight.grad_variance.item() - 9 * 7 / 9) <= 0.05
