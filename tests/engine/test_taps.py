"""A tap reports what autograd computes, changes what it is told to change, and nothing else."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from varigrad.engine.taps import Taps

from .tapped_layers import NORMS, every_layer, every_layer_with_samples_first, gradients

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")


def identity(call, inputs, grad):
    return grad.clone()


def at(dtype, model, inputs):
    return copy.deepcopy(model).to(dtype), [x.to(dtype) if x.is_floating_point() else x for x in inputs]


def assert_same_bits(mine, yours):
    assert mine.keys() == yours.keys()
    for name, value in yours.items():
        assert torch.equal(mine[name], value), name


@every_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("substitute", [True, False], ids=["substitutes", "looks"])
@pytest.mark.parametrize("biases", [True, False], ids=["biases", "weights"])
def test_the_identity_leaves_every_bit_as_it_is(model, inputs, dtype, substitute, biases):
    model, inputs = at(dtype, model, inputs)
    twin = copy.deepcopy(model)
    taps = Taps(model, identity, substitute=substitute, biases=biases)
    assert_same_bits(gradients(model, inputs), gradients(twin, inputs))
    assert_same_bits(model.state_dict(), twin.state_dict())  # running statistics are moved once
    taps.remove()
    assert_same_bits(gradients(model, inputs), gradients(twin, inputs))


@every_layer
def test_what_is_substituted_reaches_the_parameters_and_them_alone(model, inputs):
    """Doubled gradients double those of the tapped parameters, to the bit; inputs and the others see the true ones."""
    model, inputs = at(torch.float64, model, inputs)
    true = gradients(copy.deepcopy(model), inputs)
    for biases in (False, True):
        tapped = copy.deepcopy(model)
        taps = Taps(tapped, lambda call, inputs, grad: 2 * grad, substitute=True, biases=biases)
        paths = {path for _, parameters in taps.modules.values() for path, *_ in parameters}
        found = gradients(tapped, inputs)
        for name, value in true.items():
            assert torch.equal(found[name], 2 * value if name in paths else value), name
        if biases:
            assert {name for name, _ in model.named_parameters() if "bias_" not in name} <= paths


@every_layer_with_samples_first
def test_what_is_reported_gives_the_gradient_of_each_sample(model, inputs):
    """With everything but one sample blanked out of what is reported, a weight sees that sample's gradient alone.

    So the first dimension is the samples': the gradients of the samples by themselves are the oracle.
    """
    model, inputs = at(torch.float64, model, inputs)
    model = model.eval()
    count = len(inputs[0])

    def only(sample):
        def listener(call, inputs, grad):
            assert len(inputs) == len(grad) == count
            chosen = torch.zeros_like(grad)
            chosen[sample] = grad[sample]
            return chosen

        return listener

    direction = torch.randn_like(model(*inputs))
    names = {name for name, p in model.named_parameters() if p.dim() > 1 and "norm" not in name and "bias" not in name}
    for sample in range(count):
        taps = Taps(model, only(sample), substitute=True)
        model.zero_grad()
        (model(*inputs) * direction).sum().backward()
        found = {name: p.grad.clone() for name, p in model.named_parameters() if name in names}
        taps.remove()
        model.zero_grad()
        one = [x[sample : sample + 1] for x in inputs]
        (model(*one) * direction[sample : sample + 1]).sum().backward()
        for name, p in model.named_parameters():
            if name in names:
                assert torch.allclose(found[name], p.grad, atol=1e-12), name


def test_sequences_in_front_are_turned_around_inside_an_attention():
    """With the samples second, and in the flattened rows of the output's projection, the samples still come first."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2).double()
    x = torch.randn(5, 3, 8, dtype=torch.float64)  # five words, three samples
    direction = torch.randn_like(x)
    for weights in (True, False):
        for sample in range(3):

            def only(call, inputs, grad, sample=sample):
                assert len(inputs) == len(grad) == 3
                chosen = torch.zeros_like(grad)
                chosen[sample] = grad[sample]
                return chosen

            taps = Taps(attention, only, substitute=True)
            attention.zero_grad()
            (attention(x, x, x, need_weights=weights)[0] * direction).sum().backward()
            found = [attention.in_proj_weight.grad.clone(), attention.out_proj.weight.grad.clone()]
            taps.remove()
            attention.zero_grad()
            one = x[:, sample : sample + 1]
            (attention(one, one, one)[0] * direction[:, sample : sample + 1]).sum().backward()
            assert torch.allclose(found[0], attention.in_proj_weight.grad, atol=1e-12)
            assert torch.allclose(found[1], attention.out_proj.weight.grad, atol=1e-12)


def test_a_call_says_where_it_is_and_how_it_was_made():
    model = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.Flatten(), nn.Linear(24, 2))
    calls = []

    def listener(call, inputs, grad):
        calls.append((call, inputs, grad))

    taps = Taps(model, listener, substitute=False)
    x = torch.randn(3, 4, 4, 4)
    model(x).square().mean().backward()
    (linear, hidden, out), (conv, image, space) = calls
    assert (linear.site, linear.number, linear.operation.name) == ("2.weight", 0, "linear")
    assert (conv.site, conv.number, conv.operation.name) == ("0.weight", 0, "conv")
    assert linear.module is model[2]
    assert conv.arguments["weight"] is model[0].weight
    assert conv.arguments["bias"] is model[0].bias
    assert (conv.arguments["stride"], conv.arguments["groups"]) == ((2, 2), 2)
    assert torch.equal(image, x)
    assert (hidden.shape, out.shape, space.shape) == ((3, 24), (3, 2), (3, 6, 2, 2))
    assert (linear.operation.channel, conv.operation.channel) == (-1, 1)
    assert torch.equal(out.t() @ hidden, model[2].weight.grad)
    assert set(taps.modules) == {"0", "2"}


@pytest.mark.parametrize("convolution", [nn.Conv1d, nn.Conv2d, nn.ConvTranspose3d])
def test_one_sample_without_a_dimension_of_samples_is_reported_with_one(convolution):
    shapes = []

    def listener(call, inputs, grad):
        shapes.append((inputs.shape, grad.shape))
        return 2 * grad

    model = convolution(2, 3, 1)
    space = [4] * (model.weight.dim() - 2)
    x, (alone, joined) = torch.randn(2, *space), (copy.deepcopy(model) for _ in range(2))
    for each, inputs in ((alone, x), (joined, x.unsqueeze(0))):
        Taps(each, listener, substitute=True)
        each(inputs).square().sum().backward()
    assert shapes == [((1, 2, *space), (1, 3, *space))] * 2
    assert torch.equal(alone.weight.grad, joined.weight.grad)


def test_the_bias_of_a_convolution_does_not_have_its_weights_gradient_computed_twice():
    """Asked for a bias alone, torch's kernel for processors computes the weight's gradient all the same."""
    model = nn.Conv2d(3, 4, 3)
    twin = copy.deepcopy(model)
    Taps(model, lambda call, inputs, grad: 2 * grad, substitute=True)
    x = torch.randn(2, 3, 6, 6)
    with torch.profiler.profile() as profile:
        model(x).square().sum().backward()
    twin(x).square().sum().backward()
    calls = [event.count for event in profile.key_averages() if event.key == "aten::convolution_backward"]
    assert calls == [1]
    torch.testing.assert_close(model.bias.grad, twin.bias.grad)
    torch.testing.assert_close(model.weight.grad, 2 * twin.weight.grad)


def test_a_listener_that_returns_none_keeps_the_true_gradient():
    model, twin = (nn.Linear(3, 2) for _ in range(2))
    twin.load_state_dict(model.state_dict())
    Taps(model, lambda *_: None, substitute=True)
    x = [torch.randn(4, 3)]
    assert_same_bits(gradients(model, x), gradients(twin, x))


def test_removal_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(3, 3), nn.MultiheadAttention(4, 2), nn.Sequential(nn.Conv1d(2, 2, 1)))
    before = [{name: copy.copy(value) for name, value in vars(module).items()} for module in model.modules()]
    taps = Taps(model, identity, substitute=True, biases=True)
    assert list(model.state_dict()) == list(copy.deepcopy(model).state_dict())
    taps.remove()
    taps.remove()
    after = [vars(module) for module in model.modules()]
    for then, now in zip(before, after, strict=True):
        assert then.keys() == now.keys()
        for name in then.keys() - {"_parameters", "_modules"}:
            assert then[name] == now[name], name


def test_a_forward_that_somebody_else_has_put_there_is_kept():
    model = nn.Linear(3, 2)
    original = model.forward
    model.forward = theirs = lambda x: 2 * original(x)
    x = [torch.randn(4, 3)]
    true = gradients(model, x)
    taps = Taps(model, identity, substitute=True)
    assert_same_bits(gradients(model, x), true)
    taps.remove()
    assert model.forward is theirs
    taps = Taps(model, lambda call, x, grad: 5 * grad, substitute=True)
    ours = model.forward
    model.forward = lambda x: ours(x)  # around ours: it cannot be taken off from under it, but rests
    taps.remove()
    assert_same_bits(gradients(model, x), true)


def by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def by_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, by_pickle, by_file])
def test_a_copy_of_a_tapped_model_is_plain_and_its_own(copied):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 2)))
    heard = []
    Taps(model, lambda *call: heard.append(call), substitute=True)
    other = copied(copied(model))
    x = torch.randn(4, 3)
    assert torch.equal(other(x), model(x))
    other(x).sum().backward()
    assert not heard
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        other[0].weight.add_(1)
    assert not torch.equal(other(x), model(x))
    Taps(other, lambda *call: heard.append(call), substitute=True)
    other(x).sum().backward()
    assert len(heard) == 2


def test_taps_that_substitute_stand_alone():
    model = nn.Sequential(nn.Linear(3, 2))
    looks = [Taps(model, identity, substitute=False) for _ in range(2)]
    with pytest.raises(RuntimeError, match=r"0 \(Linear\) is tapped already"):
        Taps(model, identity, substitute=True)
    for taps in looks:
        taps.remove()
    changes = Taps(model, identity, substitute=True)
    with pytest.raises(RuntimeError, match="stand alone"):
        Taps(model, identity, substitute=False)
    changes.remove()
    Taps(model, identity, substitute=True)


def test_several_taps_that_look_hear_the_same():
    model, heard = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), []
    for name in "ab":
        Taps(model, lambda call, x, grad, name=name: heard.append((name, call.site, grad.sum())), substitute=False)
    model(torch.randn(4, 3)).sum().backward()
    assert sorted(h[:2] for h in heard) == [(n, s) for n in "ab" for s in ("0.weight", "1.weight")]


def test_what_cannot_be_tapped_is_refused_by_name():
    with pytest.raises(ValueError, match=r"layer.0 \(LazyLinear\) has no parameters yet"):
        Taps(nn.ModuleDict({"layer": nn.Sequential(nn.LazyLinear(3))}), identity, substitute=True)
    with pytest.raises(ValueError, match=r"the model \(Embedding\) has sparse=True"):
        Taps(nn.Embedding(3, 2, sparse=True), identity, substitute=True)
    with pytest.raises(TypeError, match=r"must be a torch\.nn"):
        Taps([nn.Linear(3, 2)], identity, substitute=True)


class Handmade(nn.Linear):
    """A subclass that does not go through torch.nn.functional."""

    def forward(self, x):
        return x @ self.weight.t() + self.bias


def test_a_parameter_that_is_used_otherwise_is_reported_once_and_keeps_its_true_gradient():
    model = nn.Sequential(Handmade(3, 2))
    Taps(model, lambda call, x, grad: 2 * grad, substitute=True)
    x = torch.randn(4, 3)
    with pytest.warns(UserWarning, match=r"0 \(Handmade\) does not hand 0.weight") as caught:
        [model(x).sum().backward() for _ in range(2)]
    assert len(caught) == 1
    model[0].weight.grad /= 2
    assert torch.allclose(model[0].weight.grad, x.sum(0).expand(2, 3))


class Half(nn.Linear):
    """A subclass that uses a part of its weight, through torch.nn.functional."""

    def forward(self, x):
        return functional.linear(x, self.weight[:1]) + functional.linear(x, self.weight[1:].clone())


def test_a_view_of_a_parameter_counts_as_the_parameter():
    """The first product is with a view, the second with a copy, of which nothing is known."""
    model, x = Half(3, 2, bias=False), torch.randn(4, 3)
    Taps(model, lambda call, x, grad: 2 * grad, substitute=True)
    model(x).sum().backward()
    assert torch.allclose(model.weight.grad, torch.stack([2 * x.sum(0), x.sum(0)]))


def test_a_substituted_gradient_cannot_be_differentiated_again():
    model, x = nn.Linear(3, 2), torch.randn(4, 3, requires_grad=True)
    taps = Taps(model, identity, substitute=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    taps.remove()
    Taps(model, identity, substitute=False)
    (slope,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    slope.sum().backward()
    assert model.weight.grad is not None


@pytest.mark.filterwarnings("ignore:module forward hook")
def test_a_replica_is_refused():
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 2)))
    Taps(model, identity, substitute=True)
    with pytest.raises(RuntimeError, match="DistributedDataParallel"):
        model._replicate_for_data_parallel()(torch.randn(4, 3))


@pytest.mark.parametrize(("model", "inputs"), NORMS)
def test_norm_layers_are_left_alone_unless_asked_for(model, inputs):
    assert not Taps(copy.deepcopy(model), identity, substitute=True).modules
