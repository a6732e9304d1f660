"""Taps on autograd's own nodes: a hook beside torch's own passes, for the calls that it can follow."""

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
        return Taps(model, self.in_place, substitute=True, biases=biases, on_node=self.beside)


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


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Channels(Heard):
    """Multiplies each channel's gradient by a number of its own, which is the same in both ways."""

    def factors(self, call, grad):
        shape = [-1] + [1] * (grad.dim() - 2)
        return torch.arange(1.0, 1 + grad.shape[1], dtype=grad.dtype).view(shape)

    def in_place(self, call, inputs, grad):
        self.ways.append("operation")
        return self.factors(call, grad) * grad

    def beside(self, call, inputs, grad, weight, bias):
        self.ways.append("node")
        self.numbers.append((call.site, call.number))
        factors = self.factors(call, grad)
        if weight is not None:
            weight = weight.mul_(factors.view(-1, *[1] * (weight.dim() - 1)))
        return weight, None if bias is None else factors.flatten() * bias

    def on(self, model, biases=True, followed=CONVOLUTIONS):
        return Taps(model, self.in_place, substitute=True, biases=biases, on_node=self.beside, followed=followed)


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize(
    ("layer", "shape", "way"),
    [
        (lambda: nn.Conv1d(4, 6, 3, padding="same"), (3, 4, 9), "node"),
        (lambda: nn.Conv2d(4, 6, 3), (3, 4, 6, 7), "node"),
        (lambda: nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last), (3, 4, 6, 7), "node"),
        (lambda: nn.Conv2d(4, 6, (3, 2), 2, 1, 2, groups=2, bias=False), (3, 4, 8, 7), "node"),
        (lambda: nn.Conv2d(4, 8, 4, groups=4, padding="same"), (3, 4, 6, 7), "node"),
        (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (3, 4, 6, 7), "node"),
        (lambda: nn.Conv3d(4, 6, 3), (2, 4, 5, 4, 3), "node"),
        (lambda: nn.Conv2d(4, 6, 3), (4, 6, 7), "operation"),
        (lambda: nn.ConvTranspose2d(4, 6, 3), (3, 4, 6, 7), "operation"),
    ],
    ids=["1d", "2d", "channels-last", "groups", "depthwise", "circular", "3d", "one sample", "transposed"],
)
def test_a_hook_on_a_convolution_is_the_operation_with_a_factor_for_each_channel(layer, shape, way, biases):
    torch.manual_seed(0)
    model, heard, by_operation = nn.Sequential(layer().double()), Channels(), Channels()
    inputs = [torch.randn(shape, dtype=torch.float64)]
    twin = copy.deepcopy(model)
    by_operation.on(twin, biases, followed=())
    exact = gradients(twin, inputs)
    heard.on(model, biases)
    found = gradients(model, inputs)
    assert heard.ways == [way]
    assert by_operation.ways == ["operation"]
    for name in exact:
        assert torch.allclose(found[name], exact[name], rtol=1e-12, atol=1e-13), name


def test_convolutions_that_are_shared_cast_or_checkpointed_are_what_they_are_to_the_operation():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    twin = copy.deepcopy(model)
    heard, by_operation = Channels(), Channels()
    heard.on(model)
    by_operation.on(twin, followed=())
    x = torch.randn(3, 4, 5, 5)
    for number, run in enumerate((_plainly, _cast, _checkpointed)):
        heard.ways.clear()
        run(model, x), run(twin, x)
        assert heard.ways == ["operation" if number else "node"] * 2
        for own, other in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(own.grad, other.grad, rtol=1e-5, atol=1e-5)
    assert heard.numbers == [("0.weight", 1), ("0.weight", 0)]


def _plainly(model, x):
    model(x).square().sum().backward()


def _cast(model, x):
    with torch.autocast("cpu", torch.bfloat16):
        model(x).float().square().sum().backward()


def _checkpointed(model, x):
    checkpoint(model, x, use_reentrant=False).square().sum().backward()


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
