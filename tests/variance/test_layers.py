"""method="layers": closed forms against one backward pass for each sample, and what must not go wrong silently."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import varigrad
from varigrad.engine import batch

from .models import (
    BUILDERS,
    Encoder,
    assert_variances,
    error,
    loss_of,
    problem,
    single_gradients,
    variance_of_mean,
)


def exact_variances(model, inputs, targets):
    return {name: variance_of_mean(grads) for name, grads in single_gradients(model, inputs, targets).items()}


@pytest.mark.parametrize("name", BUILDERS)
def test_it_is_the_variance_of_gradients_computed_one_by_one(name):
    model, inputs, targets = problem(name)
    exact = exact_variances(model, inputs, targets)
    loss_of(model(inputs), targets).backward()
    plain = {name: param.grad for name, param in model.named_parameters()}
    model.zero_grad()
    with varigrad.gradient_variance(model, method="layers"):
        loss_of(model(inputs), targets).backward()
        assert_variances(model, exact, len(targets))
        for name, param in model.named_parameters():
            assert error(param.grad, plain[name]) <= 1e-10


@pytest.mark.parametrize("name", BUILDERS)
def test_it_is_as_exact_as_float32_allows(name):
    model, inputs, targets = problem(name)
    exact = exact_variances(model, inputs, targets)
    model, inputs, targets = problem(name, torch.float32)
    with varigrad.gradient_variance(model, method="layers"):
        loss_of(model(inputs), targets).backward()
        for name, param in model.named_parameters():
            assert param.grad_variance.dtype is torch.float32
            assert error(param.grad_variance, exact[name]) <= 1e-5, name  # that of forward and backward pass


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", ["mlp", "convnet", "transformer", "embedding"])
def test_in_float32_it_is_vmap_to_rounding(name):
    model, inputs, targets = problem(name, torch.float32)
    with varigrad.gradient_variance(model, method="layers"):
        loss_of(model(inputs), targets).backward()
        ours = {name: param.grad_variance.double() for name, param in model.named_parameters()}
    model.zero_grad()
    with varigrad.gradient_variance(model, method="vmap") as handle:
        handle.compute(loss_of, inputs, targets)
        assert_variances(model, ours, len(targets), tolerance=1e-6)


def test_blocks_of_any_size_give_the_same(monkeypatch):
    monkeypatch.setattr(batch, "_library", lambda: None)  # compiled code needs no blocks
    for name in ("convnet", "many positions", "tied", "transposed"):
        model, inputs, targets = problem(name)
        exact = exact_variances(model, inputs, targets)
        for elements in (1, 700, 10**7):
            monkeypatch.setitem(varigrad.variance.terms.BLOCK, "cpu", elements)
            monkeypatch.setattr(varigrad.variance.terms, "FEW", elements)
            with varigrad.gradient_variance(model, method="layers"):
                loss_of(model(inputs), targets).backward()
                assert_variances(model, exact, len(targets))
            model.zero_grad()


@pytest.mark.parametrize("count", [1, 2, 10, 100])
def test_pairs_of_positions_and_blocks_agree(count, monkeypatch):
    monkeypatch.setattr(varigrad.variance.terms, "MOST_PAIRS", count)
    for name in ("mlp", "few positions", "many positions", "reused"):
        model, inputs, targets = problem(name)
        exact = exact_variances(model, inputs, targets)
        with varigrad.gradient_variance(model, method="layers"):
            loss_of(model(inputs), targets).backward()
            assert_variances(model, exact, len(targets))


def test_the_sum_of_the_losses_serves_as_well_as_their_mean():
    """The samples' terms of the gradient are what counts, not how the loss was reduced."""
    model, inputs, targets = problem("convnet")
    exact = exact_variances(model, inputs, targets)
    with varigrad.gradient_variance(model, method="layers"):
        (len(targets) * loss_of(model(inputs), targets)).backward()
        assert_variances(model, {name: len(targets) ** 2 * value for name, value in exact.items()}, len(targets))


def test_a_model_with_the_sequence_first():
    model, _, targets = problem("transformer")
    turned = Encoder(batch_first=False).double()
    turned.load_state_dict(model.state_dict())
    symbols = torch.randint(9, (5, 7))
    exact = exact_variances(model, symbols, targets)
    with varigrad.gradient_variance(turned, method="layers", batch_dim=1):
        loss_of(turned(symbols), targets).backward()
        assert_variances(turned, exact, 5)
    turned.zero_grad()
    with varigrad.gradient_variance(turned, method="layers"), pytest.raises(RuntimeError, match="had 7 samples, but"):
        loss_of(turned(symbols), targets).backward()


def test_frequencies_scale_an_embedding():
    weight = torch.randn(5, 3, dtype=torch.float64)
    model = nn.Embedding(5, 3, scale_grad_by_freq=True, _weight=weight)
    symbols, factors = torch.randint(5, (6, 4)), torch.randn(6, 4, 3, dtype=torch.float64)
    often = torch.bincount(symbols.flatten(), minlength=5)
    terms = torch.zeros(6, 5, 3, dtype=torch.float64)
    for n, row in enumerate(symbols):
        for t, symbol in enumerate(row):
            terms[n, symbol] += factors[n, t] / often[symbol]
    with varigrad.gradient_variance(model, method="layers"):
        (model(symbols) * factors).sum().backward()
        assert error(model.weight.grad, terms.sum(0)) <= 1e-12
        assert error(model.weight.grad_variance, variance_of_mean(6 * terms)) <= 1e-12


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_couples_the_samples_through_the_gradients_at_the_outputs(training):
    """The terms are what autograd gives to a copy of the parameters that one sample alone uses."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2)).double().train(training)
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    copies = {name: p.detach().expand(6, *p.shape).clone().requires_grad_() for name, p in model.named_parameters()}
    z = torch.einsum("noi,ni->no", copies["0.weight"], x) + copies["0.bias"]
    mean, variance = (z.mean(0), z.var(0, correction=0)) if training else z.new_tensor([[0.0], [1.0]])
    z = torch.tanh((z - mean) / (variance + 1e-5).sqrt() * copies["1.weight"] + copies["1.bias"])
    loss_of(torch.einsum("noi,ni->no", copies["3.weight"], z) + copies["3.bias"], y).backward()
    with varigrad.gradient_variance(model, method="layers"):
        loss_of(model(x), y).backward()
        assert_variances(model, {name: variance_of_mean(6 * copy.grad) for name, copy in copies.items()}, 6)


def test_passes_that_add_up_are_one_batch():
    for name in ("mlp", "convnet", "transformer", "tied", "reused"):
        model, inputs, targets = problem(name)
        inputs, targets = torch.cat((inputs, inputs.roll(1, -1))), torch.cat((targets, -targets))
        exact = exact_variances(model, inputs, targets)
        with varigrad.gradient_variance(model, method="layers"):
            for set_to_none in (True, False):
                for one, other in zip(inputs.chunk(2), targets.chunk(2), strict=True):
                    (loss_of(model(one), other) / 2).backward()
                assert_variances(model, exact, len(targets))
                model.zero_grad(set_to_none=set_to_none)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, x, left, right):
        return self.left(x) * left + self.right(x) * right


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_layer_that_a_pass_does_not_use_has_terms_of_zero_there(set_to_none):
    model = Branches().double()
    x = torch.randn(8, 3, dtype=torch.float64)
    zeros = torch.zeros(4, 3, dtype=torch.float64)
    with varigrad.gradient_variance(model, method="layers"):
        model(x, 1, 1).sum().backward()
        model.zero_grad(set_to_none=set_to_none)
        for rows, branch in ((x[:4], model.left), (x[4:], model.right)):
            branch(rows).sum().backward()
        assert error(model.left.weight.grad_variance, 64 * variance_of_mean(torch.cat((x[:4], zeros)))) <= 1e-12
        assert error(model.right.weight.grad_variance, 64 * variance_of_mean(torch.cat((zeros, x[4:])))) <= 1e-12
        assert model.left.bias.grad_samples == 8


def test_frozen_parameters_are_left_alone_and_do_not_disturb():
    model, inputs, targets = problem("convnet")
    model[0].weight.requires_grad_(False)
    model[3].bias.requires_grad_(False)
    exact = exact_variances(model, inputs, targets)
    with varigrad.gradient_variance(model, method="layers"):
        loss_of(model(inputs), targets).backward()
        for name, param in model.named_parameters():
            assert hasattr(param, "grad_variance") == param.requires_grad
            if param.requires_grad:
                assert error(param.grad_variance, exact[name]) <= 1e-10


def test_passes_without_gradients_in_between_change_nothing():
    model, inputs, targets = problem("transformer")
    exact = exact_variances(model, inputs, targets)
    with varigrad.gradient_variance(model, method="layers"):
        loss = loss_of(model(inputs), targets)
        with torch.no_grad():
            model.eval()(inputs[:2])
        with torch.inference_mode():
            model(inputs[:1])
        model.train()
        model(inputs[:3])  # a graph that nobody goes back through
        loss.backward()
        assert_variances(model, exact, len(targets))


def test_autograd_grad_adds_nothing():
    model, inputs, targets = problem("mlp")
    exact = exact_variances(model, inputs, targets)
    with varigrad.gradient_variance(model, method="layers"):
        loss_of(model(inputs), targets).backward()
        torch.autograd.grad(loss_of(model(inputs[:4]), targets[:4]), list(model.parameters()))
        with_input = inputs[:1].clone().requires_grad_()
        with contextlib.suppress(ValueError):  # a batch of one is refused here too
            torch.autograd.grad(model(with_input).sum(), with_input)
        assert_variances(model, exact, len(targets))


def test_checkpointing_gives_the_same():
    model, inputs, targets = problem("mlp")
    exact = exact_variances(model, inputs, targets)
    with varigrad.gradient_variance(model, method="layers"):
        hidden = checkpoint(model[:2], inputs, use_reentrant=False)
        loss_of(model[2](hidden), targets).backward()
        assert_variances(model, exact, len(targets))


@pytest.mark.parametrize("method", ["layers", "microbatch"])
def test_reentrant_checkpointing_is_refused(method):
    model, inputs, targets = problem("mlp")
    varigrad.gradient_variance(model, method=method)
    hidden = checkpoint(model[:2], inputs.requires_grad_(), use_reentrant=True)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        loss_of(model[2](hidden), targets).backward()


@pytest.mark.parametrize("name", ["mlp", "many positions", "norms"])
def test_under_autocast_it_is_the_variance_of_the_rounded_gradients(name):
    model, inputs, targets = problem(name, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        exact = exact_variances(model, inputs, targets)
    with varigrad.gradient_variance(model, method="layers"):
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model(inputs), targets)
            loss.backward()
        for name, param in model.named_parameters():
            assert param.grad_variance.dtype is torch.float32
            assert error(param.grad_variance, exact[name]) <= 0.02, name


def test_bfloat16_parameters_have_float32_variances():
    model, inputs, targets = problem("mlp", torch.bfloat16)
    exact = exact_variances(*problem("mlp"))
    with varigrad.gradient_variance(model, method="layers"):
        for half in (slice(0, 5), slice(5, 11)):
            (loss_of(model(inputs[half]), targets[half]) * len(targets[half]) / 11).backward()
        for name, param in model.named_parameters():
            assert param.grad.dtype is torch.bfloat16
            assert param.grad_variance.dtype is torch.float32
            assert error(param.grad_variance, exact[name]) <= 0.05, name


# ---------------------------------------------------------------- what is refused


class UsedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 4)

    def forward(self, x):
        return functional.linear(self.embedding(x).mean(1), self.embedding.weight)


def test_a_weight_that_is_used_outside_its_layer_is_refused():
    model = UsedTwice()
    varigrad.gradient_variance(model, method="layers")
    with pytest.raises(RuntimeError, match=r"gradient of embedding\.weight is not the sum over its layer's calls"):
        model(torch.randint(6, (5, 3))).square().mean().backward()


def test_a_penalty_is_refused_until_it_is_announced():
    model, inputs, targets = problem("mlp")
    singles = single_gradients(model, inputs, targets)

    def loss():
        return loss_of(model(inputs), targets) + 0.1 * sum(p.square().sum() for p in model.parameters())

    with varigrad.gradient_variance(model, method="layers"), pytest.raises(RuntimeError, match="penalty=True"):
        loss().backward()
    model.zero_grad()
    with varigrad.gradient_variance(model, method="layers", penalty=True):
        loss().backward()
        assert_variances(model, {name: variance_of_mean(grads) for name, grads in singles.items()}, len(targets))
        model.zero_grad()
        for part in (slice(0, 5), slice(5, 10)):
            (loss_of(model(inputs[part]), targets[part]) / 2).backward()
            sum(p.square().sum() for p in model.parameters()).backward()
        assert_variances(model, {name: variance_of_mean(grads[:10]) for name, grads in singles.items()}, 10)


def test_a_hook_that_changes_a_gradient_is_noticed():
    model, inputs, targets = problem("mlp")
    varigrad.gradient_variance(model, method="layers")
    model[0].weight.register_hook(lambda grad: grad * 2)
    with pytest.raises(RuntimeError, match=r"gradient of 0\.weight is not the sum"):
        loss_of(model(inputs), targets).backward()


def test_two_backward_passes_through_one_forward_pass_are_refused():
    model, inputs, targets = problem("mlp")
    varigrad.gradient_variance(model, method="layers")
    loss = loss_of(model(inputs), targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="a second backward pass goes through one call of"):
        loss.backward()


def test_one_attention_for_two_kinds_of_attention_is_refused():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            x = self.attention(x, x, x)[0]
            return self.attention(x[:, :1], x, x)[0]

    model = Both()
    varigrad.gradient_variance(model, method="layers")
    with pytest.raises(RuntimeError, match=r"attention\.in_proj_weight was used as a whole and in parts in one pass"):
        model(torch.randn(3, 5, 4)).square().sum().backward()


def test_a_graph_of_the_gradients_is_refused():
    model, inputs, targets = problem("mlp")
    varigrad.gradient_variance(model, method="layers")
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        loss_of(model(inputs), targets).backward(create_graph=True)


def test_virtual_gradients_and_layers_exclude_each_other():
    model = nn.Linear(3, 2)
    with varigrad.gradient_variance(model, method="layers"), pytest.raises(RuntimeError, match="stand alone"):
        varigrad.virtual_gradients(model)
    virtual = varigrad.virtual_gradients(model)
    with pytest.raises(RuntimeError, match="stand alone"):
        varigrad.gradient_variance(model, method="layers")
    virtual.remove()
    varigrad.gradient_variance(model, method="layers")


def test_layers_that_disagree_on_the_samples_are_refused():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.symbols, self.positions = nn.Embedding(6, 4), nn.Embedding(3, 4)

        def forward(self, x):
            return self.symbols(x) + self.positions(torch.arange(3))

    model = Positions()
    varigrad.gradient_variance(model, method="layers")
    with pytest.raises(RuntimeError, match=r"\(Embedding\) had \d samples, but other layers in the same pass had \d"):
        model(torch.randint(6, (5, 3))).sum().backward()


def test_a_batch_of_one_is_refused():
    model, inputs, targets = problem("mlp")
    varigrad.gradient_variance(model, method="layers")
    with pytest.raises(ValueError, match="batch of 1, and a variance needs at least 2"):
        loss_of(model(inputs[:1]), targets[:1]).backward()


def test_after_an_error_the_next_pass_is_right():
    model, inputs, targets = problem("mlp")
    exact = exact_variances(model, inputs, targets)
    with varigrad.gradient_variance(model, method="layers"):
        with pytest.raises(ValueError, match="batch of 1"):
            loss_of(model(inputs[:1]), targets[:1]).backward()
        model.zero_grad()
        loss_of(model(inputs), targets).backward()
        assert_variances(model, exact, len(targets))


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.line(x) * self.scale


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (nn.Sequential(nn.Linear(3, 3), Scaled()), r"parameter scale of 1 \(Scaled\)"),
        (nn.Sequential(nn.LSTM(3, 2)), r"parameter weight_ih_l0 of 0 \(LSTM\)"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), r"of parametrizations\.weight \(Parametriz"),
        (nn.Bilinear(2, 2, 2), "parameter weight of the Bilinear itself"),
    ],
)
def test_parameters_of_unknown_modules_are_refused_by_path_and_type(model, text):
    with pytest.raises(TypeError, match=text):
        varigrad.gradient_variance(model, method="layers")
    assert all("forward" not in vars(module) for module in model.modules())


def test_a_layer_whose_parameters_are_frozen_may_be_of_any_kind():
    model = Scaled().double()
    model.scale.requires_grad_(False)
    x = torch.randn(5, 3, dtype=torch.float64)
    with varigrad.gradient_variance(model, method="layers"):
        model(x).mean().backward()
        assert error(model.line.weight.grad_variance, variance_of_mean((x / 2)[:, None].expand(5, 2, 3))) <= 1e-12


def test_a_variance_that_somebody_keeps_is_not_written_over():
    """The memory of the last one is used again only where nobody has it, not even in a view or a graph."""
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))
    weight = model[0].weight
    with varigrad.gradient_variance(model, method="layers"):
        for keep in (lambda: weight.grad_variance, lambda: weight.grad_variance[0], lambda: weight.grad_variance.t()):
            kept = []
            for _ in range(4):
                model.zero_grad()
                model(torch.randn(5, 8)).square().sum().backward()
                kept.append((keep(), keep().clone()))
            assert all(torch.equal(one, before) for one, before in kept)


@pytest.mark.parametrize("name", ["convnet", "transformer", "mlp"])
def test_without_compiled_code_it_is_the_same(name, monkeypatch):
    found = []
    for library in (batch._library, lambda: None):
        monkeypatch.setattr(batch, "_library", library)
        model, inputs, targets = problem(name)
        with varigrad.gradient_variance(model, method="layers"):
            loss_of(model(inputs), targets).backward()
            found.append([p.grad_variance for p in model.parameters()])
    for one, other in zip(*found, strict=True):
        assert error(one, other) <= 1e-10
