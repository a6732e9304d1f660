"""The same place in the forward pass has the same number, whatever happens between and around."""

import copy
import gc
import sys

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.distributed.processes import launch
from varigrad.engine.taps import Taps


class Repeating(nn.Module):
    """Two layers in two segments, which may be checkpointed: `first` is called five times, `second` twice."""

    def __init__(self, use_reentrant: bool | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.use_reentrant = use_reentrant

    def segment(self, x):
        return self.second(torch.tanh(self.first(torch.tanh(self.first(x)))))

    def forward(self, x):
        for _ in range(2):
            if self.use_reentrant is None:
                x = self.segment(x)
            else:
                x = checkpoint(self.segment, x, use_reentrant=self.use_reentrant)
        return self.first(x)


ORDER = [("first", 4), ("second", 1), ("first", 3), ("first", 2), ("second", 0), ("first", 1), ("first", 0)]
"""The calls in the order of the backward pass."""

BOTH_KINDS = pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "not-reentrant"])


class Log:
    """A listener that notes who calls, and multiplies by a number that depends on the call."""

    def __init__(self) -> None:
        self.calls = []

    def __call__(self, call, inputs, grad):
        self.calls.append((call.site.removesuffix(".weight"), call.number))
        return (call.number + 2) * grad

    def take(self):
        calls, self.calls = self.calls, []
        return calls


def made(use_reentrant=None, seed=0):
    """A tapped model, its log, and an input that needs a gradient, as reentrant checkpoints want it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, x = Repeating(use_reentrant).double(), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    log = Log()
    return model, x, log, Taps(model, log, substitute=True)


def grads(model):
    return [p.grad.clone() for p in model.parameters()]


def test_every_call_of_a_layer_has_its_own_number_in_every_pass():
    model, x, log, _ = made()
    for _ in range(3):
        model(x).sum().backward()
        assert log.take() == ORDER


@BOTH_KINDS
def test_the_recomputed_call_is_the_same_call(use_reentrant):
    plain, x, _, _ = made()
    plain(x).sum().backward()
    model, x, log, _ = made(use_reentrant)
    for _ in range(2):
        model.zero_grad()
        model(x).sum().backward()
        assert log.take() == ORDER
    for mine, theirs in zip(grads(model), grads(plain), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-13)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@BOTH_KINDS
def test_two_passes_before_their_backward_passes(use_reentrant):
    """What a checkpoint notes belongs to its own pass: another one, or an evaluation, does not overwrite it."""
    model, x, log, _ = made(use_reentrant)
    one, two = model(x).sum(), model(2 * x).sum()
    with torch.no_grad():
        model(x)
    one.backward()
    assert log.take() == ORDER
    two.backward()
    assert log.take() == ORDER


@BOTH_KINDS
def test_a_graph_that_is_kept_gives_the_same_twice(use_reentrant):
    model, x, log, _ = made(use_reentrant)
    loss = model(x).sum()
    loss.backward(retain_graph=True)
    first = grads(model)
    loss.backward()
    assert log.take() == [*ORDER, *ORDER]
    for once, twice in zip(first, grads(model), strict=True):
        assert torch.allclose(2 * once, twice, rtol=1e-13)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_checkpoint_inside_a_checkpoint():
    class Nested(Repeating):
        def forward(self, x):
            inner = super().forward
            return checkpoint(lambda y: inner(inner(y)), x, use_reentrant=True)

    model, log = Nested(True).double(), Log()
    Taps(model, log, substitute=True)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    model(x).sum().backward()
    assert log.take() == [(site, n + (5 if site == "first" else 2)) for site, n in ORDER] + ORDER


def test_evaluation_between_does_not_count():
    model, x, log, _ = made()
    model(x).sum().backward()
    for mode in (True, False):
        model.train(mode)
        with torch.no_grad():
            model(x)
        with torch.inference_mode():
            model(x)
        model(x)  # and one without a backward pass
        loss = model(x).sum()
        with torch.no_grad():
            model.first(x)
        log.take()
        loss.backward()
        assert log.take() == ORDER


def test_without_gradients_nothing_is_built():
    model, x, _, _ = made()
    with torch.no_grad():
        assert model(x).grad_fn is None


def test_accumulated_gradients_add_up():
    model, x, log, _ = made()
    model(x).sum().backward()
    once = grads(model)
    model(x).sum().backward()
    assert log.take() == [*ORDER, *ORDER]
    assert all(torch.equal(2 * a, b) for a, b in zip(once, grads(model), strict=True))


def test_a_layer_called_by_itself_is_a_pass_of_its_own():
    model, x, log, _ = made()
    (model.first(x) + model.first(x)).sum().backward()
    assert log.take() == [("first", 0), ("first", 0)]


def test_a_part_of_a_model_called_by_itself_is_a_pass_of_its_own():
    model, log = nn.Sequential(Repeating(), nn.Linear(4, 4)), Log()
    Taps(model, log, substitute=False)
    x = torch.randn(3, 4)
    for _ in range(2):
        model[1](model[0](x)).sum().backward()
        assert log.take() == [("1", 0), *((f"0.{site}", number) for site, number in ORDER)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_pass_does_not_count(error):
    model, x, log, _ = made()

    def interrupt(*_):
        raise error

    handle = model.second.register_forward_hook(interrupt)
    with pytest.raises(error):
        model(x)
    handle.remove()
    assert torch.overrides._len_torch_function_stack() == 0
    model(x).sum().backward()
    assert log.take() == ORDER


def test_two_layers_with_one_weight_are_two_sites():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).double()
    model[1].weight = model[0].weight
    x = torch.randn(4, 3, dtype=torch.float64)
    one, two = (copy.deepcopy(model) for _ in range(2))
    Taps(one, lambda call, inputs, grad: 2 * grad if call.site == "0.weight" else 0 * grad, substitute=True)
    Taps(two, lambda call, inputs, grad: 0 * grad if call.site == "0.weight" else 3 * grad, substitute=True)
    for network in (one, two):
        network(x).square().sum().backward()
    loose = copy.deepcopy(model)
    loose[1].weight = nn.Parameter(model[1].weight.detach().clone())
    loose(x).square().sum().backward()
    assert torch.allclose(one[0].weight.grad, 2 * loose[0].weight.grad)
    assert torch.allclose(two[0].weight.grad, 3 * loose[1].weight.grad)


def test_tied_embeddings_are_two_sites_of_one_parameter():
    model, log = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)), Log()
    model[1].weight = model[0].weight
    Taps(model, log, substitute=True)
    model(torch.tensor([[0, 4]])).sum().backward()
    assert log.take() == [("1", 0), ("0", 0)]


def test_a_frozen_layer_is_passed_by_and_what_is_before_it_sees_the_truth():
    model, x, log, _ = made()
    model.second.weight.requires_grad_(False)
    model(x).sum().backward()
    assert log.take() == [call for call in ORDER if call[0] == "first"]
    assert model.second.weight.grad is None
    model.second.weight.requires_grad_(True)
    model(x).sum().backward()
    assert log.take() == ORDER


def test_an_input_that_needs_no_gradient_gets_none():
    model, log = nn.Linear(4, 2), Log()
    Taps(model, log, substitute=True)
    model(torch.randn(3, 4)).sum().backward()
    assert log.take() == [("weight", 0)]


@pytest.mark.parametrize("substitute", [True, False])
def test_a_compiled_model_gives_the_same(substitute):
    plain, log = Repeating(), Log()
    x = torch.randn(3, 4)
    model = copy.deepcopy(plain)
    for network in (plain, model):
        Taps(network, log, substitute=substitute)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(3):
        for network in (plain, model):
            network.zero_grad()
        plain(x).sum().backward()
        assert log.take() == ORDER
        compiled(x).sum().backward()
        assert log.take() == ORDER
        assert all(torch.equal(a, b) for a, b in zip(grads(model), grads(plain), strict=True))


def test_a_model_compiled_without_graph_breaks_is_refused_clearly():
    model = nn.Sequential(nn.Linear(4, 4))
    Taps(model, Log(), substitute=True)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="disable"):
        torch.compile(model, backend="eager", fullgraph=True)(torch.randn(3, 4))


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("substitute", [True, False])
def test_autocast_gives_the_same_bits(kind, substitute):
    torch.manual_seed(0)
    layers = {
        "linear": lambda: nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4)),
        "conv": lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3)),
    }
    plain = layers[kind]()
    tapped = copy.deepcopy(plain)
    Taps(tapped, lambda call, inputs, grad: grad, substitute=substitute, biases=True)
    x = torch.randn(5, 4) if kind == "linear" else torch.randn(5, 4, 6, 6)
    outcomes = []
    for model in (plain, tapped):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            output = model(leaf)
        output.float().square().sum().backward()
        outcomes.append([output.detach(), leaf.grad, *grads(model)])
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))
    assert outcomes[0][2].dtype is torch.float32


def saved_bytes(model, x):
    """The bytes of the distinct memory that autograd keeps for the backward pass."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    return sum(kept.values())


@pytest.mark.parametrize("autocast", [False, True])
def test_no_more_is_kept_for_the_backward_pass(autocast):
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    tapped = copy.deepcopy(plain)
    Taps(tapped, lambda *_: None, substitute=True)
    x = torch.randn(16, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert saved_bytes(tapped, x) <= saved_bytes(plain, x)


def test_nothing_is_left_of_a_pass_when_its_graph_is_gone(newer_objects):
    def tensors():
        gc.collect()
        return sum(1 for thing in newer_objects() if issubclass(type(thing), torch.Tensor))

    for use_reentrant in (None, True, False):
        model, x, _, _ = made(use_reentrant)
        counts = []
        for step in range(6):
            model.zero_grad()
            if step % 2:
                model(x).sum().backward()
            else:
                model(x)
            counts.append(tensors())
        assert len({counts[1], counts[3], counts[5]}) == 1
        assert len({counts[2], counts[4]}) == 1


def check_average_over_ranks():
    model, _, _, _ = made()
    wrapped = nn.parallel.DistributedDataParallel(model)
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(2, 3, 4, dtype=torch.float64, generator=generator)
    wrapped(parts[torch.distributed.get_rank()]).sum().backward()
    mean = [torch.zeros_like(p) for p in model.parameters()]
    for part in parts:
        alone, _, _, _ = made()
        alone(part).sum().backward()
        mean = [a + p.grad / 2 for a, p in zip(mean, alone.parameters(), strict=True)]
    assert all(torch.allclose(a, p.grad, rtol=1e-12) for a, p in zip(mean, model.parameters(), strict=True))


@pytest.mark.skipif(not torch.distributed.is_available() or sys.platform == "win32", reason="needs gloo")
def test_distributed_data_parallel_averages_what_was_substituted():
    launch(check_average_over_ranks, 2)
