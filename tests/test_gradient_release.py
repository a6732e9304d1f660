"""Stepping inside the backward pass: the same to the bit as a step after it, in less memory."""

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

import varigrad
from tests.battery.table import ROWS, Row, every_optimizer
from tests.contract.contenders import every_way, loss_of, network, same

VSGD = varigrad.VSGD
Loss = Callable[[nn.Module, int], Tensor]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss = loss_of, steps: int = 6) -> None:
    """The loop of a user, with a scheduler and without a word of stepping in backward."""
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a scheduler warns where it sees no step before its own
        for step in range(steps):
            optimizer.zero_grad()
            loss(model, step).backward()
            optimizer.step()
            scheduler.step()


def assert_same_training(
    make: Callable[[nn.Module], torch.optim.Optimizer], model: nn.Module, loss: Loss = loss_of
) -> None:
    """Trains twice, stepping after and inside the backward pass, and compares weights and state to the bit."""
    after, inside = model, copy.deepcopy(model)
    start = [param.detach().clone() for param in after.parameters()]
    ordinary = make(after)
    train(after, ordinary, loss)
    releasing = make(inside)
    varigrad.step_in_backward(inside, releasing)
    train(inside, releasing, loss)
    assert same(inside.parameters(), after.parameters())
    assert not same(inside.parameters(), start)
    mine, yours = releasing.state_dict(), ordinary.state_dict()
    assert mine["param_groups"] == yours["param_groups"]
    assert mine["state"].keys() == yours["state"].keys()
    for index, state in mine["state"].items():
        assert state.keys() == yours["state"][index].keys()
        assert same(state.values(), yours["state"][index].values())


@every_way
@every_optimizer
def test_stepping_inside_equals_stepping_after_to_the_bit(row: Row, way: dict[str, Any]) -> None:
    assert_same_training(lambda model: row.optimizer(model.parameters(), lr=1e-2, weight_decay=0.1, **way), network())


@pytest.mark.parametrize("rounding", ["stochastic", "kahan", "nearest"])
@every_optimizer
def test_and_so_with_low_precision(row: Row, rounding: str) -> None:
    assert_same_training(
        lambda model: row.optimizer(model.parameters(), lr=1e-2, rounding=rounding, state_dtype=torch.bfloat16),
        network(dtype=torch.bfloat16),
    )


def test_and_so_with_groups_and_frozen_parameters() -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        model[0].weight.requires_grad_(False)
        return VSGD([{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters()}], lr=1e-2)

    assert_same_training(make, network())


class Tied(nn.Module):
    """One weight that is used twice, before and after another."""

    def __init__(self, reentrant: bool | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared, self.between, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.reentrant = reentrant

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs
        for layer in (self.shared, self.between, self.shared):
            if self.reentrant is None:
                hidden = layer(hidden).tanh()
            else:
                hidden = checkpoint(lambda x, f=layer: f(x).tanh(), hidden, use_reentrant=self.reentrant)
        return self.last(hidden)


@pytest.mark.parametrize("reentrant", [None, False], ids=["plain", "checkpointed"])
def test_and_so_with_shared_parameters(reentrant: bool | None) -> None:
    assert_same_training(lambda model: VSGD(model.parameters(), lr=1e-2), Tied(reentrant))


def test_a_parameter_shared_between_reentrant_segments_is_refused() -> None:
    model = Tied(reentrant=True)
    varigrad.step_in_backward(model, VSGD(model.parameters()))
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        model(torch.ones(2, 4).requires_grad_()).sum().backward()


def test_and_so_under_torch_compile() -> None:
    torch._dynamo.reset()

    def loss(model: nn.Module, step: int) -> Tensor:
        return torch.compile(loss_of, backend="aot_eager")(model, step)

    assert_same_training(lambda model: VSGD(model.parameters(), lr=1e-2), network(), loss)


def test_and_so_with_a_closure() -> None:
    models = [network(), network()]
    optimizers = [VSGD(model.parameters(), lr=1e-2) for model in models]
    varigrad.step_in_backward(models[1], optimizers[1])
    for model, optimizer in zip(models, optimizers, strict=True):
        for step in range(4):

            def closure(model: nn.Module = model, optimizer: Any = optimizer, step: int = step) -> Tensor:
                optimizer.zero_grad()
                loss = loss_of(model, step)
                loss.backward()
                return loss

            optimizer.step(closure)
    assert same(models[0].parameters(), models[1].parameters())


def most_bytes_of_gradients(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor) -> int:
    """The most bytes that gradients of parameters take at any time during a backward pass."""
    seen: dict[int, tuple[StorageWeakRef, int]] = {}
    most = 0

    def note(grad: Tensor) -> None:
        nonlocal most
        storage = grad.untyped_storage()
        for key in [key for key, (reference, _) in seen.items() if reference.expired()]:
            del seen[key]
        seen[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        most = max(most, sum(size for _, size in seen.values()))

    hooks = [param.register_hook(note) for param in model.parameters()]
    model(inputs).square().mean().backward()
    optimizer.step()
    for hook in hooks:
        hook.remove()
    return most


def test_the_gradients_of_two_layers_are_never_there_at_once() -> None:
    depth, width = 8, 32
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))
    optimizer = VSGD(model.parameters())
    inputs, layer = torch.ones(4, width), 4 * (width * width + width)
    assert most_bytes_of_gradients(model, optimizer, inputs) == depth * layer
    optimizer.zero_grad()
    varigrad.step_in_backward(model, optimizer)
    assert most_bytes_of_gradients(model, optimizer, inputs) <= layer
    assert all(param.grad is None for param in model.parameters())


def test_step_runs_its_hooks_once_and_changes_nothing_else() -> None:
    model = network()
    optimizer = VSGD(model.parameters())
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    varigrad.step_in_backward(model, optimizer)
    loss_of(model, 0).backward()
    assert called == []
    weights, state = [p.detach().clone() for p in model.parameters()], copy.deepcopy(optimizer.state_dict())
    optimizer.step()
    assert called == ["before", "after"]
    assert same(model.parameters(), weights)
    assert str(optimizer.state_dict()) == str(state)


@pytest.mark.parametrize("row", ROWS[:2], ids=lambda row: row.name)
def test_held_backward_passes_are_accumulated_as_they_are_without(row: Row) -> None:
    models = [network(), network()]
    optimizers = [row.optimizer(model.parameters(), lr=1e-2) for model in models]
    release = varigrad.step_in_backward(models[1], optimizers[1])
    for step in range(0, 9, 3):
        for model, optimizer in zip(models, optimizers, strict=True):
            with release.hold():
                loss_of(model, step).backward()
                loss_of(model, step + 1).backward()
            loss_of(model, step + 2).backward()
            assert all((param.grad is None) == (model is models[1]) for param in model.parameters())
            optimizer.step()
            optimizer.zero_grad()
    assert same(models[0].parameters(), models[1].parameters())


def test_a_parameter_that_the_last_micro_batch_does_not_reach_is_stepped_by_step() -> None:
    models = [network(), network()]
    optimizers = [VSGD(model.parameters(), lr=1e-2) for model in models]
    release = varigrad.step_in_backward(models[1], optimizers[1])
    for model, optimizer in zip(models, optimizers, strict=True):
        with release.hold():
            loss_of(model, 0).backward()
        model[2](torch.ones(2, 6)).square().mean().backward()
        optimizer.step()
    assert same(models[0].parameters(), models[1].parameters())
    assert [state["step"].item() for state in optimizers[1].state.values()] == [1.0] * 4


def test_a_second_backward_pass_before_step_is_refused() -> None:
    model = network()
    varigrad.step_in_backward(model, VSGD(model.parameters()))
    loss_of(model, 0).backward()
    weights = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match=r"optimizer.step\(\) has not been called since.*hold\(\)"):
        loss_of(model, 1).backward()
    assert same(model.parameters(), weights)


def test_remove_gives_the_work_back_to_step() -> None:
    model = network()
    optimizer = VSGD(model.parameters())
    release = varigrad.step_in_backward(model, optimizer)
    release.remove()
    weights = [p.detach().clone() for p in model.parameters()]
    loss_of(model, 0).backward()
    loss_of(model, 1).backward()
    assert same(model.parameters(), weights)
    assert all(p.grad is not None for p in model.parameters())
    optimizer.step()
    assert not same(model.parameters(), weights)


def test_a_parameter_that_is_unfrozen_or_added_later_is_stepped_by_step() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    optimizer = VSGD([*model[0].parameters(), model[2].weight], lr=1e-2)
    varigrad.step_in_backward(model, optimizer)
    model[0].weight.requires_grad_(True)
    optimizer.add_param_group({"params": [model[2].bias]})
    before = [param.detach().clone() for param in model.parameters()]
    loss_of(model, 0).backward()
    optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_training_resumes_to_the_bit_from_a_state_dict_while_active() -> None:
    through = network()
    optimizer = VSGD(through.parameters(), lr=1e-2)
    varigrad.step_in_backward(through, optimizer)
    train(through, optimizer, steps=3)
    resumed = copy.deepcopy(through)
    again = VSGD(resumed.parameters(), lr=1e-2)
    varigrad.step_in_backward(resumed, again)
    again.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    for model, one in ((through, optimizer), (resumed, again)):
        train(model, one, steps=3)
    assert same(through.parameters(), resumed.parameters())


def test_a_scaled_loss_is_noticed_by_its_scaler() -> None:
    model = network()
    optimizer = VSGD(model.parameters())
    varigrad.step_in_backward(model, optimizer)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(model, 0)).backward()
    with pytest.raises(AssertionError, match="No inf checks"):
        scaler.step(optimizer)


def test_a_scaled_loss_is_noticed_by_a_step_that_scales_itself() -> None:
    model = network()
    optimizer = VSGD(model.parameters(), fused=True)
    varigrad.step_in_backward(model, optimizer)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(model, 0)).backward()
    with pytest.raises(RuntimeError, match="found no gradients before the step"):
        scaler.step(optimizer)


def test_a_bound_on_each_gradient_is_a_hook_registered_before() -> None:
    models = [network(), network()]
    optimizers = [varigrad.MSGD(model.parameters(), lr=1.0) for model in models]

    def clip(param: Tensor) -> None:
        nn.utils.clip_grad_norm_(param, 1e-3)

    for param in models[1].parameters():
        param.register_post_accumulate_grad_hook(clip)
    varigrad.step_in_backward(models[1], optimizers[1])
    loss_of(models[0], 0).backward()
    for param in models[0].parameters():
        clip(param)
    loss_of(models[1], 0).backward()
    for optimizer in optimizers:
        optimizer.step()
    assert same(models[0].parameters(), models[1].parameters())


def test_a_sparse_gradient_is_refused_in_the_backward_pass() -> None:
    model = nn.Embedding(5, 2, sparse=True)
    varigrad.step_in_backward(model, VSGD(model.parameters()))
    with pytest.raises(RuntimeError, match="parameter number 0 of group 0 has a sparse"):
        model(torch.tensor([1, 2])).sum().backward()


def test_two_at_once_are_refused() -> None:
    model = network()
    optimizer = VSGD(model.parameters())
    varigrad.step_in_backward(model, optimizer)
    varigrad.step_in_backward(model, optimizer)
    with pytest.raises(RuntimeError, match=r"two step_in_backward are active; remove\(\) one"):
        loss_of(model, 0).backward()


def test_groups_that_were_rearranged_are_refused() -> None:
    model = network()
    optimizer = VSGD([{"params": model[0].parameters()}, {"params": model[2].parameters()}])
    varigrad.step_in_backward(model, optimizer)
    optimizer.param_groups.reverse()
    with pytest.raises(RuntimeError, match="another one now"):
        loss_of(model, 0).backward()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: torch.optim.AdamW(m.parameters()), TypeError, "an optimizer of varigrad.*not AdamW"),
        (lambda m: VSGD(network().parameters()), ValueError, "parameter number 0 of group 0 is not one of the model's"),
        (lambda m: VSGD(m.parameters(), differentiable=True), RuntimeError, "group 0 has differentiable=True"),
        (lambda m: VSGD(m.parameters(), variance="batch"), RuntimeError, "reads the spread inside the mini-batch"),
        (lambda m: varigrad.MSVAG(m.parameters(), variance="batch"), RuntimeError, "reads the batch_variance inside"),
    ],
    ids=["torch's", "another model", "differentiable", "VSGD batch", "MSVAG batch"],
)
def test_what_cannot_be_stepped_inside_is_refused(make: Any, error: type[Exception], message: str) -> None:
    model = network()
    with pytest.raises(error, match=message):
        varigrad.step_in_backward(model, make(model))


def test_the_model_must_be_a_module() -> None:
    model = network()
    with pytest.raises(TypeError, match=r"torch\.nn\.Module as the model, not list"):
        varigrad.step_in_backward(list(model.parameters()), VSGD(model.parameters()))  # type: ignore[arg-type]


@pytest.fixture
def process_group() -> Any:
    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_gradients_that_a_wrapper_averages_later_are_refused(process_group: None) -> None:
    model = network()
    wrapped = nn.parallel.DistributedDataParallel(network())
    with pytest.raises(RuntimeError, match="DistributedDataParallel"):
        varigrad.step_in_backward(wrapped, VSGD(wrapped.parameters()))
    with pytest.raises(RuntimeError, match="process group"):
        varigrad.step_in_backward(model, VSGD(model.parameters()))


def test_a_process_group_that_comes_later_is_noticed(request: pytest.FixtureRequest) -> None:
    model = network()
    varigrad.step_in_backward(model, VSGD(model.parameters()))
    request.getfixturevalue("process_group")
    with pytest.raises(RuntimeError, match="process group"):
        loss_of(model, 0).backward()


def test_fully_sharded_parameters_are_stepped_on_their_averaged_gradients(process_group: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    models = [network(), network()]
    for model in models:
        fully_shard(model, mesh=mesh)
    optimizers = [VSGD(model.parameters(), lr=1e-2) for model in models]
    varigrad.step_in_backward(models[1], optimizers[1])
    before = [param.to_local().clone() for param in models[1].parameters()]
    for step in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            assert all((param.grad is None) == (model is models[1]) for param in model.parameters())
            optimizer.step()
    inside = [param.to_local() for param in models[1].parameters()]
    assert same(inside, [param.to_local() for param in models[0].parameters()])
    assert not same(inside, before)
