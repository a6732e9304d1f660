"""State dicts, their hooks, copies and pickles."""

import copy
import io
import pickle

import pytest
import torch

from .contenders import every_contender, feed, loss_of, network, parameters, run, same, snapshot, train, twins

# ---------------------------------------------------------------- state_dict and its hooks


@every_contender
def test_a_state_dict_is_torchs(make):
    params = parameters(3)
    optimizer = make([{"params": params[:1]}, {"params": params[1:], "lr": 3e-3}], lr=1e-2)
    run(optimizer, [params[0], params[2]], range(2))
    saved = optimizer.state_dict()
    assert saved.keys() == {"state", "param_groups"}
    assert [group["params"] for group in saved["param_groups"]] == [[0], [1, 2]]
    assert [group["lr"] for group in saved["param_groups"]] == [1e-2, 3e-3]
    assert saved["state"].keys() == {0, 2}
    assert saved["state"][0].keys() == saved["state"][2].keys()
    assert saved["state"][2]["step"] == 2
    for param, key in ((params[0], 0), (params[2], 2)):
        assert same(saved["state"][key].values(), optimizer.state[param].values())
        assert all(value.shape in (param.shape, ()) for value in saved["state"][key].values())


@every_contender
def test_state_dict_hooks_surround_it(make):
    params = parameters()
    optimizer = make(params, lr=1e-2)
    run(optimizer, params, range(1))
    calls = []

    def pre(opt):
        calls.append(("pre", opt))
        opt.param_groups[0]["lr"] = 0.5

    def replace(opt, state_dict):
        calls.append(("replace", opt))
        return {**state_dict, "extra": state_dict["param_groups"][0]["lr"]}

    def add(opt, state_dict):
        calls.append(("add", opt))
        state_dict["more"] = "extra" in state_dict

    handles = [
        optimizer.register_state_dict_pre_hook(pre),
        optimizer.register_state_dict_post_hook(replace),
        optimizer.register_state_dict_post_hook(add, prepend=True),
    ]
    saved = optimizer.state_dict()
    assert calls == [("pre", optimizer), ("add", optimizer), ("replace", optimizer)]
    assert (saved["extra"], saved["more"]) == (0.5, False)
    for handle in handles:
        handle.remove()
    assert optimizer.state_dict().keys() == {"state", "param_groups"}
    assert len(calls) == 3


@every_contender
def test_load_state_dict_hooks_surround_it(make):
    params = parameters()
    mine = twins(params)
    source, optimizer = make(params, lr=1e-2), make(mine, lr=0.5)
    run(source, params, range(2))
    calls = []

    def note(opt, state_dict):
        calls.append(("note", opt.param_groups[0]["lr"], len(opt.state)))
        state_dict["seen"] = True

    def replace(opt, state_dict):
        calls.append(("replace", state_dict["seen"]))
        groups = [{**group, "lr": 0.25} for group in state_dict["param_groups"]]
        return {"state": state_dict["state"], "param_groups": groups}

    def post(opt):
        calls.append(("post", opt.param_groups[0]["lr"], opt.state[mine[0]]["step"].item()))
        opt.param_groups[0]["lr"] = 0.125

    def first(opt):
        calls.append(("first", opt.param_groups[0]["lr"], opt.state[mine[0]]["step"].item()))

    handles = [
        optimizer.register_load_state_dict_pre_hook(replace),
        optimizer.register_load_state_dict_pre_hook(note, prepend=True),
        optimizer.register_load_state_dict_post_hook(post),
        optimizer.register_load_state_dict_post_hook(first, prepend=True),
    ]
    saved = source.state_dict()
    assert optimizer.load_state_dict(saved) is None
    assert calls == [("note", 0.5, 0), ("replace", True), ("first", 0.25, 2.0), ("post", 0.25, 2.0)]
    assert optimizer.param_groups[0]["lr"] == 0.125
    assert saved.keys() == {"state", "param_groups"}
    assert saved["param_groups"][0]["lr"] == 1e-2
    for handle in handles:
        handle.remove()
    optimizer.load_state_dict(saved)
    assert len(calls) == 4
    assert optimizer.param_groups[0]["lr"] == 1e-2


@every_contender
def test_a_hook_may_rename_what_is_saved_and_its_partner_undo_it(make):
    params = parameters()
    mine = twins(params)
    source, optimizer = make(params, lr=1e-2), make(mine, lr=1e-2)
    run(source, params, range(2))
    source.register_state_dict_post_hook(lambda _, state: {"packed": state})
    optimizer.register_load_state_dict_pre_hook(lambda _, state: state["packed"])
    saved = source.state_dict()
    assert saved.keys() == {"packed"}
    optimizer.load_state_dict(copy.deepcopy(saved))
    for param, twin in zip(params, mine, strict=True):
        assert same(source.state[param].values(), optimizer.state[twin].values())


# ---------------------------------------------------------------- loading


@every_contender
def test_a_state_that_never_stepped_is_loaded(make):
    params = parameters()
    mine = twins(params)
    source, optimizer = make(params, lr=3e-3, weight_decay=0.1), make(mine)
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    optimizer.load_state_dict(torch.load(file, weights_only=True))
    assert not optimizer.state
    assert optimizer.param_groups[0]["lr"] == 3e-3
    run(source, params, range(3))
    run(optimizer, mine, range(3))
    assert same(params, mine)


@every_contender
def test_loading_replaces_what_was_there(make):
    """A parameter that the saved run had not stepped yet begins anew."""
    params = parameters()
    mine = twins(params)
    source, optimizer = make(params, lr=1e-2), make(mine, lr=1e-2)
    run(source, params[:1], range(2))
    run(optimizer, mine, range(10, 15))
    optimizer.load_state_dict(copy.deepcopy(source.state_dict()))
    assert mine[1] not in optimizer.state
    with torch.no_grad():
        for param, twin in zip(params, mine, strict=True):
            twin.copy_(param)
    run(source, params, range(2, 5))
    run(optimizer, mine, range(2, 5))
    assert [optimizer.state[param]["step"].item() for param in mine] == [5, 3]
    assert same(params, mine)


@every_contender
def test_another_number_of_parameters_is_refused_and_changes_nothing(make):
    params = parameters(3)
    optimizer, other = make(params[:2], lr=1e-2), make(twins(params), lr=0.5)
    run(optimizer, params[:2], range(2))
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        optimizer.load_state_dict(other.state_dict())
    assert optimizer.param_groups[0]["lr"] == 1e-2
    after = snapshot(optimizer)
    assert same(after[0], before[0])
    for now, then in zip(after[1], before[1], strict=True):
        assert same(now.values(), then.values())


@every_contender
def test_a_rewound_optimizer_repeats_itself(make):
    """What early stopping and line searches do: keep a copy, go on, come back."""
    model = network()
    optimizer = make(model.parameters(), lr=1e-2)
    train(model, optimizer, range(3))
    kept = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    ends = []
    for _ in range(2):
        model.load_state_dict(kept[0])
        optimizer.load_state_dict(copy.deepcopy(kept[1]))
        train(model, optimizer, range(3, 6))
        ends.append([param.detach().clone() for param in model.parameters()])
    assert same(*ends)
    assert not same(ends[0], kept[0].values())


# ---------------------------------------------------------------- copies and pickles


def pickled(optimizer):
    return pickle.loads(pickle.dumps(optimizer))


every_copy = pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])


@every_copy
@every_contender
def test_a_copy_has_everything_but_the_hooks(make, duplicate):
    """As with torch's own: hooks are functions, which could not be pickled."""
    params = parameters()
    optimizer = make([("a", params[0]), ("b", params[1])], lr=1e-2, weight_decay=0.1)
    run(optimizer, params, range(2))
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    optimizer.register_state_dict_post_hook(lambda *_: calls.append("saved"))
    optimizer.register_load_state_dict_post_hook(lambda *_: calls.append("loaded"))
    other = duplicate(optimizer)
    theirs = other.param_groups[0]["params"]
    run(other, theirs, range(2, 4))
    other.load_state_dict(other.state_dict())
    assert not calls
    assert optimizer.state[params[0]]["step"] == 2
    assert not same(params, theirs)
    run(optimizer, params, range(2, 4))
    assert calls == ["pre", "post"] * 2
    assert same(params, theirs)
    assert type(other) is make
    assert other.defaults == optimizer.defaults
    assert {k: v for k, v in other.param_groups[0].items() if k != "params"} == {
        k: v for k, v in optimizer.param_groups[0].items() if k != "params"
    }


@every_copy
@every_contender
def test_hooks_can_be_registered_with_a_copy(make, duplicate):
    other = duplicate(make(parameters()))
    params = other.param_groups[0]["params"]
    calls = []
    other.register_step_pre_hook(lambda *_: calls.append("pre"))
    other.register_step_post_hook(lambda *_: calls.append("post"))
    other.register_state_dict_pre_hook(lambda *_: calls.append("saving"))
    other.register_state_dict_post_hook(lambda *_: calls.append("saved"))
    other.register_load_state_dict_pre_hook(lambda *_: calls.append("loading"))
    other.register_load_state_dict_post_hook(lambda *_: calls.append("loaded"))
    run(other, params, range(1))
    other.load_state_dict(other.state_dict())
    assert calls == ["pre", "post", "saving", "saved", "loading", "loaded"]


@every_copy
@every_contender
def test_a_model_and_its_optimizer_are_copied_together(make, duplicate):
    model = network()
    optimizer = make(model.parameters(), lr=1e-2)
    train(model, optimizer, range(2))
    copied, its = duplicate((model, optimizer))
    assert all(a is b for a, b in zip(its.param_groups[0]["params"], copied.parameters(), strict=True))
    assert its.state.keys() == set(copied.parameters())
    train(copied, its, range(2, 4))
    train(model, optimizer, range(2, 4))
    assert same(model.parameters(), copied.parameters())


@every_copy
@every_contender
def test_a_group_can_be_added_to_a_copy(make, duplicate):
    optimizer = make(parameters(1), lr=0.125)
    other = duplicate(optimizer)
    late = parameters(2)[1]
    other.add_param_group({"params": [late]})
    feed([late], 0)
    other.step()
    assert len(optimizer.param_groups) == 1
    assert other.param_groups[1]["lr"] == 0.125
    assert other.state[late]["step"] == 1


@every_contender
def test_an_optimizer_under_a_scheduler_is_copied(make):
    """The scheduler puts a wrapper around the step, which is not part of the optimizer."""
    model = network()
    optimizer = make(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    train(model, optimizer, range(1))
    scheduler.step()
    copied, its = pickled((model, optimizer))
    assert its.param_groups[0]["lr"] == 5e-3
    assert its.param_groups[0]["initial_lr"] == 1e-2
    train(model, optimizer, range(1, 3))
    its.zero_grad()
    train(copied, its, range(1, 3))
    assert same(model.parameters(), copied.parameters())
    assert loss_of(copied, 0) == loss_of(model, 0)


@every_contender
def test_a_state_dict_may_be_older_than_a_flag(make):
    """What it does not say is as the optimizer that loads it was made."""
    params = parameters()
    optimizer = make(params, lr=1e-2)
    run(optimizer, params, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    for name in ("maximize", "foreach", "capturable", "differentiable", "fused", "rounding", "state_dtype"):
        saved["param_groups"][0].pop(name, None)
    again = twins(params)
    resumed = make(again, lr=1.0)
    resumed.load_state_dict(saved)
    run(optimizer, params, range(3, 6))
    run(resumed, again, range(3, 6))
    assert same(params, again)
