"""Loading a state dict: exactly what was saved, for this optimizer only, and nothing of it shared."""

import copy
import pickle

import pytest
import torch
from torch.distributed.checkpoint.state_dict import _init_optim_state

import varigrad

from .toy_rules import Learned, Momentum, Normalized, Remembering


def stepped(make=Normalized, steps=3, dtype=torch.float32, shape=(5,), **settings):
    generator = torch.Generator().manual_seed(0)
    param = torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
    optimizer = make([param], **settings)
    for _ in range(steps):
        param.grad = torch.randn(shape, generator=generator).to(dtype)
        optimizer.step()
    return optimizer, param


def snapshot(optimizer):
    return copy.deepcopy(optimizer.state_dict())


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_and_dtype_comes_back(dtype):
    saved = snapshot(stepped(dtype=dtype)[0])
    fresh, _ = stepped(steps=0, dtype=dtype)
    fresh.load_state_dict(saved)
    assert same(fresh.state_dict(), saved)


def test_a_dtype_that_is_not_the_parameters_is_kept():
    saved = snapshot(stepped()[0])
    saved["state"][0]["mean"] = saved["state"][0]["mean"].bfloat16()
    fresh, param = stepped(steps=0)
    fresh.load_state_dict(saved)
    assert fresh.state[param]["mean"].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_stored_in_low_precision_stays_so_while_stepping(way, dtype):
    """The state of a parameter that was loaded in another precision is written in that precision."""
    saved = snapshot(stepped(dtype=dtype)[0])
    saved["state"][0]["mean"] = saved["state"][0]["mean"].bfloat16()
    fresh, param = stepped(steps=0, dtype=dtype)
    fresh.load_state_dict(saved)
    before = fresh.state[param]["mean"].clone()
    param.grad = torch.ones_like(param)
    fresh.step()
    assert fresh.state[param]["mean"].dtype == torch.bfloat16
    torch.testing.assert_close(fresh.state[param]["mean"], (0.9 * before.float() + 0.1).bfloat16(), rtol=1e-2, atol=0)


def test_the_saved_tensors_are_not_shared():
    saved = stepped()[0].state_dict()
    before = copy.deepcopy(saved)
    fresh, param = stepped(steps=0)
    fresh.load_state_dict(saved)
    param.grad = torch.ones_like(param)
    fresh.step()
    assert same(saved, before)
    for name, value in saved["state"][0].items():
        assert fresh.state[param][name].data_ptr() != value.data_ptr()


@pytest.mark.parametrize("make", [Normalized, Remembering, Learned], ids=lambda c: c.__name__)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_goes_its_own_way(make, copied):
    optimizer, param = stepped(make)
    other, twin = copied((optimizer, param))
    assert same(optimizer.state_dict(), other.state_dict())
    before = snapshot(optimizer)
    twin.grad = torch.ones_like(twin)
    other.step()
    assert same(optimizer.state_dict(), before)
    assert not torch.equal(param, twin)


# ---------------------------------------------------------------- refused


def adamw_state():
    param = torch.nn.Parameter(torch.ones(5))
    param.grad = torch.ones(5)
    optimizer = torch.optim.AdamW([param], lr=0.5)
    optimizer.step()
    return optimizer.state_dict()


def changed(**changes):
    def make():
        saved = snapshot(stepped()[0])
        saved["param_groups"][0].update(changes)
        return saved

    return make


def without(name):
    def make():
        saved = snapshot(stepped()[0])
        del saved["state"][0][name]
        return saved

    return make


def with_two_parameters():
    params = [torch.nn.Parameter(torch.ones(5)) for _ in range(2)]
    return Normalized(params).state_dict()


def of_another_shape():
    return stepped(shape=(7,))[0].state_dict()


REFUSED = {
    "of AdamW": (adamw_state, ValueError, "not Normalized's.*exp_avg"),
    "of another rule": (lambda: snapshot(stepped(Momentum)[0]), ValueError, "not Normalized's.*'mean', 'step'"),
    "a state is missing": (without("square"), ValueError, "not Normalized's"),
    "a step is missing": (without("step"), ValueError, "not Normalized's"),
    "out of range": (changed(beta=1.5), ValueError, "beta.*1.5"),
    "of a wrong type": (changed(lr="0.1"), TypeError, "lr.*'0.1'"),
    "flags that exclude each other": (changed(foreach=True, fused=True), RuntimeError, "exclude each other"),
    "another number of parameters": (with_two_parameters, ValueError, "size of optimizer's group"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_foreign_state_changes_nothing(case, toy_kernels):
    make, error, message = REFUSED[case]
    optimizer, param = stepped(lr=0.25)
    before, value = snapshot(optimizer), param.detach().clone()
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(make())
    assert same(optimizer.state_dict(), before)
    assert torch.equal(param, value)


def test_a_state_of_another_shape_is_refused(way):
    optimizer, _ = stepped(**way)
    with pytest.raises(ValueError, match=r"\(7,\)|\[7\]"):
        optimizer.load_state_dict(of_another_shape())


@pytest.mark.parametrize(
    "flags",
    [
        {"foreach": False},
        {"foreach": True},
        {"fused": True},
    ],
    ids=str,
)
def test_a_state_that_no_longer_fits_its_parameter_is_refused(flags, toy_kernels):
    """The compiled code would otherwise read and write beyond a state that is too small."""
    optimizer, param = stepped(shape=(7,), **flags)
    param.data = torch.ones(5)  # smaller, so that what goes wrong cannot spoil the memory of this process
    param.grad = torch.ones(5)
    with pytest.raises((RuntimeError, ValueError)):
        optimizer.step()


def test_the_hooks_are_gone_after_a_refusal():
    optimizer, _ = stepped()
    with pytest.raises(ValueError, match="not Normalized's"):
        optimizer.load_state_dict(adamw_state())
    saved = snapshot(stepped(steps=5)[0])
    optimizer.load_state_dict(saved)
    assert same(optimizer.state_dict(), saved)
    assert not optimizer._optimizer_load_state_dict_pre_hooks
    assert not optimizer._optimizer_load_state_dict_post_hooks


# ---------------------------------------------------------------- what is said otherwise


def test_missing_flags_and_hyperparameters_get_their_defaults():
    """A checkpoint may be older than a flag."""
    saved = snapshot(stepped()[0])
    for name in ("fused", "differentiable", "maximize"):
        del saved["param_groups"][0][name]
    fresh, _ = stepped(steps=0, maximize=True)
    fresh.load_state_dict(saved)
    group = fresh.param_groups[0]
    assert (group["fused"], group["differentiable"], group["maximize"]) == (None, False, True)


def test_missing_flags_of_a_pickle_get_their_defaults():
    optimizer, param = stepped()
    state = optimizer.__getstate__()
    del state["defaults"]["fused"], state["param_groups"][0]["fused"]
    older = Normalized.__new__(Normalized)
    older.__setstate__(state)
    assert older.param_groups[0]["fused"] is older.defaults["fused"] is None
    param.grad = torch.ones_like(param)
    older.step()


def test_the_saved_hyperparameters_win():
    saved = snapshot(stepped(lr=0.7, beta=0.5, maximize=True)[0])
    fresh, _ = stepped(steps=0)
    fresh.load_state_dict(saved)
    assert [fresh.param_groups[0][name] for name in ("lr", "beta", "maximize")] == [0.7, 0.5, True]


def test_notes_in_a_group_are_kept():
    optimizer, _ = stepped()
    optimizer.param_groups[0]["note"] = "mine"
    fresh, _ = stepped(steps=0)
    fresh.load_state_dict(snapshot(optimizer))
    assert fresh.param_groups[0]["note"] == "mine"


def test_a_state_without_steps_is_loaded():
    optimizer, param = stepped()
    optimizer.load_state_dict(stepped(steps=0)[0].state_dict())
    assert len(optimizer.state[param]) == 0


def test_the_users_pre_hook_is_respected():
    """What it returns is what is checked and loaded."""
    saved = snapshot(stepped()[0])
    foreign = snapshot(stepped()[0])
    foreign["state"][0] = {"step": saved["state"][0]["step"], "something": torch.ones(5)}
    fresh, _ = stepped(steps=0)
    fresh.register_load_state_dict_pre_hook(lambda optimizer, state_dict: saved)
    fresh.load_state_dict(foreign)
    assert same(fresh.state_dict(), saved)


def test_the_users_post_hook_has_the_last_word():
    saved = snapshot(stepped(dtype=torch.bfloat16)[0])
    fresh, param = stepped(steps=0, dtype=torch.bfloat16)
    seen = []

    def hook(optimizer):
        seen.append(optimizer.state[param]["mean"].dtype)
        optimizer.state[param]["mean"].zero_()

    fresh.register_load_state_dict_post_hook(hook)
    fresh.load_state_dict(saved)
    assert seen == [torch.float32]
    assert not fresh.state[param]["mean"].any()


def test_the_step_stays_on_the_host_unless_capturable():
    saved = snapshot(stepped()[0])
    for capturable in (False, True):
        saved["param_groups"][0]["capturable"] = capturable
        fresh, param = stepped(steps=0)
        fresh.load_state_dict(saved)
        assert fresh.state[param]["step"].device.type == "cpu"
        assert fresh.state[param]["step"].dtype == torch.float32


def test_a_learning_rate_that_is_a_tensor_comes_back_as_a_copy():
    rate = torch.tensor(0.5)
    optimizer, _ = stepped(lr=rate)
    saved = optimizer.state_dict()
    fresh, _ = stepped(steps=0)
    fresh.load_state_dict(saved)
    rate.fill_(0.25)
    assert fresh.param_groups[0]["lr"].item() == 0.5


# ---------------------------------------------------------------- the step that torch's distributed checkpoints take


def parameters(count=2):
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(3, generator=generator)) for _ in range(count)]


def train(optimizer, params, steps):
    for step in steps:
        for param in params:
            param.grad = torch.randn(3, generator=torch.Generator().manual_seed(step))
        optimizer.step()


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
@pytest.mark.parametrize("make", [Momentum, Normalized, Learned])
def test_the_step_that_only_creates_the_state_leaves_no_trace(make, lr, way):
    def trained(asked_first):
        params = parameters()
        optimizer = make(params, lr=lr, weight_decay=0.1, **way)
        if asked_first:
            _init_optim_state(optimizer)
            assert all(optimizer.state[param]["step"] == 0 for param in params)
            assert optimizer.state_dict()["state"].keys() == {0, 1}
        train(optimizer, params, range(3))
        return optimizer, params

    (one, ours), (other, theirs) = trained(False), trained(True)
    assert same(ours, theirs)
    assert same(one.state_dict(), other.state_dict())


def test_state_that_was_only_created_waits_for_the_first_gradient():
    """A parameter whose first gradient comes late has been saved with the others, and starts from the same state."""
    params = parameters()
    optimizer = Normalized(params)
    _init_optim_state(optimizer)
    train(optimizer, params[:1], range(3))
    assert optimizer.state[params[1]]["step"] == 0
    train(optimizer, params[1:], range(3))
    alone = parameters()
    train(Normalized(alone[1:]), alone[1:], range(3))
    assert torch.equal(params[1], alone[1])


@pytest.mark.parametrize(
    ("rates", "size"), [((0.0, 1e-9), 0.0), ((0.0, 0.0), 1e-38), ((0.0, 0.0), float("nan")), ((0.0, 0.0), None)]
)
def test_any_other_first_step_counts(rates, size):
    params = parameters()
    optimizer = Momentum([{"params": [param], "lr": lr} for param, lr in zip(params, rates, strict=True)])
    params[0].grad = torch.zeros(3)
    params[1].grad = None if size is None else torch.tensor([0.0, size, 0.0])
    optimizer.step()
    assert optimizer.state[params[0]]["step"] == 1


def test_a_second_step_without_gradients_or_rates_counts():
    params = parameters()
    optimizer = Momentum(params, lr=0.0)
    for expected in (0, 1, 2):
        for param in params:
            param.grad = torch.zeros(3)
        optimizer.step()
        assert optimizer.state[params[0]]["step"] == expected


def test_a_pair_that_was_saved_as_a_list_is_a_pair_again():
    optimizer = varigrad.VSGD(parameters(), kappas=(0.7, 0.8))
    saved = snapshot(optimizer)
    saved["param_groups"][0]["kappas"] = [0.7, 0.8]
    fresh = varigrad.VSGD(parameters())
    fresh.load_state_dict(saved)
    assert fresh.param_groups[0]["kappas"] == (0.7, 0.8)


def test_settings_are_saved_as_what_every_kind_of_checkpoint_can_hold():
    """Numbers, strings, None and pairs of them: torch's gathering of state dicts over ranks refuses a dtype."""
    optimizer = varigrad.VSGD(parameters(), state_dtype=torch.bfloat16)
    (saved,) = snapshot(optimizer)["param_groups"]
    assert all(isinstance(value, (int, float, str, tuple, list, type(None))) for value in saved.values())
    fresh = varigrad.VSGD(parameters())
    fresh.load_state_dict({"state": {}, "param_groups": [saved]})
    assert fresh.param_groups[0]["state_dtype"] is torch.bfloat16
    for wrong in ("torch.float64", "torch.nothing"):
        with pytest.raises((TypeError, ValueError), match="state_dtype"):
            fresh.load_state_dict({"state": {}, "param_groups": [saved | {"state_dtype": wrong}]})
