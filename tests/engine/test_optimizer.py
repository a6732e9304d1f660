"""The base class around a rule: groups, validation, and what a step may and may not change."""

import copy
import math

import pytest
import torch

from .toy_rules import Learned, Momentum, Normalized, Remembering, Swapping

NAN = math.nan


def parameter(values=(1.0, -2.0, 3.0), grad=(0.5, 0.5, -1.0), dtype=torch.float32):
    param = torch.nn.Parameter(torch.tensor(values, dtype=dtype))
    param.grad = None if grad is None else torch.tensor(grad, dtype=dtype)
    return param


def steps_alone(count, grads, make=Momentum, **settings):
    """Where a parameter of its own gets to."""
    param = parameter(grad=None)
    optimizer = make([param], **settings)
    for index in range(count):
        param.grad = torch.tensor(grads[index])
        optimizer.step()
    return param.detach()


# ---------------------------------------------------------------- groups


def test_a_group_overrides_what_it_names(way):
    params = [parameter() for _ in range(4)]
    groups = [
        {"params": [params[0]]},
        {"params": [params[1]], "lr": 0.5},
        {"params": [params[2]], "beta": 0.0, "weight_decay": 0.1},
        {"params": [params[3]], "maximize": True},
    ]
    optimizer = Momentum(groups, lr=0.1, beta=0.9, **way)
    for _ in range(2):
        optimizer.step()
    grads = [[0.5, 0.5, -1.0]] * 2
    settings = [{}, {"lr": 0.5}, {"beta": 0.0, "weight_decay": 0.1}, {"maximize": True}]
    for param, setting in zip(params, settings, strict=True):
        assert torch.equal(param, steps_alone(2, grads, **way | setting))
    assert len({tuple(param.tolist()) for param in params}) == 4


BAD_SETTINGS = [
    ({"lr": -0.1}, ValueError, "lr"),
    ({"lr": NAN}, ValueError, "lr"),
    ({"lr": "0.1"}, TypeError, "lr"),
    ({"beta": 1.0}, ValueError, "beta"),
    ({"beta": NAN}, ValueError, "beta"),
    ({"beta": None}, TypeError, "beta"),
    ({"weight_decay": -1.0}, ValueError, "weight_decay"),
    ({"weight_decay": math.inf}, ValueError, "weight_decay"),
    ({"maximize": 1}, TypeError, "maximize"),
    ({"maximize": None}, TypeError, "maximize"),
    ({"foreach": "yes"}, TypeError, "foreach"),
    ({"capturable": None}, TypeError, "capturable"),
    ({"foreach": True, "differentiable": True}, RuntimeError, "foreach=True is not differentiable"),
]


@pytest.mark.parametrize(("settings", "error", "message"), BAD_SETTINGS)
def test_the_constructor_refuses(settings, error, message):
    with pytest.raises(error, match=f"^Momentum.*{message}"):
        Momentum([parameter()], **settings)


@pytest.mark.parametrize(("settings", "error", "message"), BAD_SETTINGS)
def test_a_group_is_refused_with_its_number(settings, error, message):
    groups = [{"params": [parameter()]}, {"params": [parameter()], **settings}]
    with pytest.raises(error, match=message) as refusal:
        Momentum(groups)
    assert "parameter group 1" in str(refusal.value)


@pytest.mark.parametrize(("settings", "error", "message"), BAD_SETTINGS)
def test_a_group_added_later_is_refused_and_not_added(settings, error, message):
    optimizer = Momentum([parameter()])
    with pytest.raises(error, match=message):
        optimizer.add_param_group({"params": [parameter()], **settings})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(("settings", "error", "message"), BAD_SETTINGS)
def test_what_is_set_later_is_refused_at_the_next_step(settings, error, message):
    first, second = parameter(), parameter()
    optimizer = Momentum([{"params": [first]}, {"params": [second]}])
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict()["state"]), first.tolist(), second.tolist()
    optimizer.param_groups[1].update(settings)
    with pytest.raises(error, match=message):
        optimizer.step()
    after = optimizer.state_dict()["state"]
    assert (first.tolist(), second.tolist()) == before[1:]
    assert all(torch.equal(after[key][name], value) for key in after for name, value in before[0][key].items())


def test_fused_and_foreach_exclude_each_other(toy_kernels):
    with pytest.raises(RuntimeError, match="exclude each other"):
        Momentum([{"params": [parameter()], "fused": True}], foreach=True)


def test_an_unknown_key_is_refused():
    with pytest.raises(TypeError, match=r"group 1 has the key 'moment', which Momentum does not know"):
        Momentum([{"params": [parameter()]}, {"params": [parameter()], "moment": 0.9}])


@pytest.mark.parametrize("key", ["name", "lr_scale", "initial_lr", "max_lr", "swa_lr", "base_momentum"])
def test_bookkeeping_is_accepted(key):
    optimizer = Momentum([{"params": [parameter()], key: 1.0}])
    optimizer.step()
    assert optimizer.param_groups[0][key] == 1.0


def test_a_note_added_later_is_accepted():
    optimizer = Momentum([parameter()])
    optimizer.param_groups[0]["mine"] = "a note"
    optimizer.step()


def test_named_parameters_are_named_in_errors():
    first, second = parameter(), parameter()
    second.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match=r"parameter body\.weight of group 0 has a sparse"):
        Momentum([("head.weight", first), ("body.weight", second)]).step()


def test_no_parameters_are_refused():
    with pytest.raises(ValueError, match="empty parameter list"):
        Momentum([])


@pytest.mark.parametrize("change", [{"lr": 0.7}, {"beta": 0.2}, {"weight_decay": 0.3}, {"maximize": True}])
def test_a_change_is_used_at_the_next_step(way, change):
    param = parameter()
    optimizer = Momentum([param], **way)
    optimizer.step()
    middle = copy.deepcopy((param, optimizer.state[param]))
    optimizer.param_groups[0].update(change)
    optimizer.step()
    twin, state = middle
    twin.grad = param.grad.clone()
    other = Momentum([twin], **way | change)
    other.state[twin] = state
    other.step()
    assert torch.equal(param, twin)
    assert not torch.equal(param, steps_alone(2, [[0.5, 0.5, -1.0]] * 2, **way))


def test_a_scheduler_drives_the_rate(way):
    param = parameter(values=(0.0,), grad=(1.0,), dtype=torch.float64)
    optimizer = Momentum([param], lr=1.0, beta=0.0, **way)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    assert param.item() == -1.75


# ---------------------------------------------------------------- the step belongs to the parameter


def test_each_parameter_counts_its_own_steps(way):
    early, late = parameter(), parameter(grad=None)
    optimizer = Momentum([early, late], weight_decay=0.1, **way)
    optimizer.step()
    optimizer.step()
    assert late.tolist() == [1.0, -2.0, 3.0]
    assert late not in optimizer.state
    late.grad = torch.tensor([0.5, 0.5, -1.0])
    optimizer.step()
    assert optimizer.state[early]["step"].item() == 3
    assert optimizer.state[late]["step"].item() == 1
    assert torch.equal(late, steps_alone(1, [[0.5, 0.5, -1.0]], weight_decay=0.1, **way))


def test_a_step_without_a_gradient_is_no_step(way):
    param = parameter()
    optimizer = Normalized([param], weight_decay=0.1, **way)
    optimizer.step()
    before = copy.deepcopy(optimizer.state[param]), param.tolist()
    param.grad = None
    optimizer.step()
    assert param.tolist() == before[1]
    assert all(torch.equal(optimizer.state[param][name], value) for name, value in before[0].items())


def test_the_count_is_a_float32_scalar_on_the_host():
    param = parameter(dtype=torch.bfloat16)
    optimizer = Momentum([param])
    optimizer.step()
    step = optimizer.state[param]["step"]
    assert (step.dtype, step.shape, step.device.type) == (torch.float32, (), "cpu")


def test_the_state_starts_where_the_optimizer_says(way):
    param = parameter(grad=(0.0, 0.0, 0.0))
    optimizer = Normalized([param], **way)
    optimizer.step()
    assert optimizer.state[param]["square"].tolist() == pytest.approx([0.9] * 3)


# ---------------------------------------------------------------- nothing is changed that should not be


@pytest.mark.parametrize("make", [Momentum, Normalized, Remembering, Learned], ids=lambda c: c.__name__)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.complex64])
@pytest.mark.parametrize("maximize", [False, True])
def test_the_gradient_is_never_changed(way, make, dtype, maximize):
    param = parameter(dtype=dtype)
    grad, before = param.grad, param.grad.clone()
    optimizer = make([param], maximize=maximize, weight_decay=0.1, **way)
    for _ in range(3):
        optimizer.step()
    assert param.grad is grad
    assert torch.equal(param.grad, before)


def test_a_kept_gradient_is_not_the_gradient(way):
    """The next backward pass may write into the gradient; the state must not follow it."""
    param = parameter()
    optimizer = Remembering([param], **way)
    optimizer.step()
    param.grad.fill_(100.0)
    assert optimizer.state[param]["previous"].tolist() == [0.5, 0.5, -1.0]


def test_states_may_be_exchanged(way):
    """The old value of one must not be overwritten before it has become the new value of the other."""
    param = parameter(dtype=torch.float32)
    optimizer = Swapping([param], **way)
    optimizer.step()
    assert optimizer.state[param]["left"].tolist() == [2.0] * 3
    assert optimizer.state[param]["right"].tolist() == [1.0] * 3


def test_a_refused_step_changes_nothing(way):
    fine, sparse = parameter(), parameter()
    optimizer = Normalized([{"params": [fine]}, {"params": [sparse]}], **way)
    sparse.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match="parameter number 0 of group 1 has a sparse one"):
        optimizer.step()
    assert fine.tolist() == sparse.tolist() == [1.0, -2.0, 3.0]
    assert not optimizer.state


def test_fused_is_refused_where_it_does_not_serve(toy_kernels):
    param = parameter()
    optimizer = Momentum([{"params": [param]}, {"params": [parameter()], "fused": True, "capturable": True}])
    with pytest.raises(RuntimeError, match=r"fused=True cannot step parameter group 1: it is capturable, on a CPU"):
        optimizer.step()
    assert param.tolist() == [1.0, -2.0, 3.0]


def test_a_subclass_of_a_tensor_is_stepped_by_torch(toy_kernels):
    class Marked(torch.Tensor):
        pass

    param = torch.ones(3).as_subclass(Marked).requires_grad_()
    param.grad = torch.ones(3)
    Momentum([param]).step()
    assert param.tolist() == pytest.approx([0.9] * 3)


# ---------------------------------------------------------------- closures


def test_a_closure_is_called_once_with_gradients_on(way):
    param = parameter(grad=None)
    optimizer = Momentum([param], **way)
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert calls == [True]
    assert loss.item() == 14.0
    assert param.tolist() == pytest.approx([0.8, -1.6, 2.4])


def test_without_a_closure_nothing_is_returned():
    assert Momentum([parameter()]).step() is None


def test_a_failing_closure_changes_nothing():
    param = parameter()

    def closure():
        raise ZeroDivisionError

    optimizer = Momentum([param])
    with pytest.raises(ZeroDivisionError):
        optimizer.step(closure)
    assert param.tolist() == [1.0, -2.0, 3.0]
    assert not optimizer.state
