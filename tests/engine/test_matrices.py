"""Taps on linear layers on matrices: a hook beside torch's own passes, for the calls that it can follow."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from varigrad.engine.taps import Taps

from .tapped_layers import gradients


class Heard:
    """Counts which way the calls come, multiplying gradients by a number, which is the same in both ways."""

    def __init__(self, factor=1.0):
        self.factor, self.ways, self.numbers = factor, [], []

    def in_place(self, call, inputs, grad):
        self.ways.append("operation")
        return self.factor * grad

    def beside(self, call, inputs, grad, weight, bias):
        self.ways.append("matrix")
        self.numbers.append((call.site, call.number))
        assert inputs.shape[0] == grad.shape[0]
        if weight is not None:
            assert torch.allclose(weight, grad.t() @ inputs, rtol=1e-4, atol=1e-6)
            weight = weight.mul_(self.factor)
        return weight, None if bias is None else self.factor * bias

    def on(self, model, biases=True):
        return Taps(model, self.in_place, substitute=True, biases=biases, on_matrix=self.beside)


def network(bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4, bias=bias), nn.ReLU(inplace=True), nn.Linear(4, 3, bias=bias)).double()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("samples", [1, 6])
def test_an_identity_leaves_every_bit_as_it_is(bias, samples):
    model, heard = network(bias), Heard()
    inputs = [torch.randn(samples, 5, dtype=torch.float64)]
    exact = gradients(copy.deepcopy(model), inputs)
    taps = heard.on(model)
    found = gradients(model, inputs)
    assert heard.ways == ["matrix"] * 2
    taps.remove()
    for after in (found, gradients(model, inputs)):
        assert all(torch.equal(after[name], exact[name]) for name in exact)


@pytest.mark.parametrize("biases", [True, False])
def test_only_tapped_parameters_see_what_is_answered(biases):
    model, heard = network(), Heard(2.0)
    inputs = [torch.randn(6, 5, dtype=torch.float64)]
    exact = gradients(copy.deepcopy(model), inputs)
    heard.on(model, biases)
    found = gradients(model, inputs)
    for name in exact:
        doubled = name.endswith("weight") or (biases and name.endswith("bias"))
        assert torch.equal(found[name], 2 * exact[name] if doubled else exact[name]), name


class Doubling(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def parametrised():
    return parametrizations.weight_norm(nn.Linear(5, 5).double())


@pytest.mark.parametrize(
    ("layer", "shape", "ways"),
    [
        (lambda: nn.Linear(5, 5).double(), (6, 5), ["matrix"]),
        (lambda: nn.Linear(5, 5).double(), (6, 2, 5), ["operation"]),
        (lambda: nn.Linear(5, 5).double(), (5,), ["operation"]),
        (lambda: nn.Linear(5, 5).bfloat16(), (6, 5), ["operation"]),
        (lambda: Doubling(5, 5).double(), (6, 5), ["operation"]),
    ],
    ids=["matrix", "sequences", "one sample", "bfloat16", "subclass"],
)
def test_what_is_no_plain_layer_on_a_matrix_is_tapped_at_its_operation(layer, shape, ways):
    model, heard = nn.Sequential(layer()), Heard(2.0)
    inputs = [torch.randn(shape).to(model[0].weight.dtype)]
    exact = gradients(copy.deepcopy(model), inputs)
    heard.on(model)
    found = gradients(model, inputs)
    assert heard.ways == ways
    for name in ("0.weight", "0.bias"):
        assert torch.allclose(found[name], 2 * exact[name], rtol=1e-6)


def test_a_parametrised_layer_is_not_followed():
    model, heard = nn.Sequential(parametrised()), Heard(2.0)
    heard.on(model)
    model(torch.randn(6, 5, dtype=torch.float64)).sum().backward()
    assert "matrix" not in heard.ways


def test_autocast_and_checkpointing_are_served_at_the_operation():
    model, heard = network().float(), Heard()
    heard.on(model)
    x = torch.randn(6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        model(x).float().sum().backward()
    assert heard.ways == ["operation"] * 2
    heard.ways.clear()
    checkpoint(model, x.requires_grad_(), use_reentrant=False).sum().backward()
    assert heard.ways == ["operation"] * 2
    heard.ways.clear()
    checkpoint(model, x, use_reentrant=True).sum().backward()  # its second run packs nothing
    assert heard.ways == ["matrix"] * 2


def test_calls_and_shared_weights_are_numbered_alike():
    layer, heard = nn.Linear(4, 4).double(), Heard()
    heard.on(layer)
    model = nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh())
    taps = Heard()
    layer.forward.taps.remove()
    taps.on(model)
    x = torch.randn(3, 4, dtype=torch.float64)
    for _ in range(2):
        model(x).sum().backward()
    assert taps.numbers == [("0.weight", 1), ("0.weight", 0)] * 2


def test_a_copy_of_a_tapped_model_can_be_tapped_beside():
    model = network()
    Heard().on(model)
    twin, heard = copy.deepcopy(model), Heard()
    heard.on(twin)
    twin(torch.randn(3, 5, dtype=torch.float64)).sum().backward()
    assert heard.ways == ["matrix"] * 2


def test_a_gradient_that_is_to_be_differentiated_again_is_refused():
    model = network()
    Heard().on(model)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        model(torch.randn(3, 5, dtype=torch.float64)).sum().backward(create_graph=True)


def test_a_loss_that_is_kept_does_not_keep_the_inputs():
    """Torch frees what it saved at the end of the backward pass; a hook that held the input would not."""
    model = nn.Linear(5, 4)
    Heard().on(model)
    x = torch.randn(3, 5).requires_grad_() * 1.0
    alive = weakref.ref(x.untyped_storage())
    loss = model(x).sum()
    loss.backward()
    del x
    gc.collect()
    assert alive() is None
    assert loss.isfinite()


def test_a_second_backward_pass_is_heard_again():
    model, heard = network(), Heard()
    heard.on(model)
    loss = model(torch.randn(3, 5, dtype=torch.float64)).square().sum()
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in model.parameters()]
    loss.backward()
    assert heard.ways == ["matrix"] * 4
    assert all(torch.equal(p.grad, 2 * grad) for p, grad in zip(model.parameters(), once, strict=True))
