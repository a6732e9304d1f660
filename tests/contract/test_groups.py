"""Parameters and groups of them: names, groups that come later, frozen and shared parameters."""

import copy

import pytest
import torch
from torch import nn

from .contenders import (
    every_contender,
    every_way,
    every_way_that_knows_strides,
    feed,
    loss_of,
    network,
    parameters,
    run,
    same,
    train,
    twins,
)

# ---------------------------------------------------------------- what may be given


@every_contender
def test_parameters_come_in_any_ordered_form(make):
    ends = []
    for form in (
        lambda model: model.parameters(),
        lambda model: list(model.parameters()),
        lambda model: tuple(model.parameters()),
        lambda model: model.named_parameters(),
        lambda model: [{"params": layer.parameters()} for layer in (model[0], model[2])],
        lambda model: [
            {"params": layer.named_parameters(prefix=name)} for name, layer in (("0", model[0]), ("2", model[2]))
        ],
        lambda model: [{"params": param} for param in model.parameters()],
    ):
        model = network()
        train(model, make(form(model), lr=1e-2), range(3))
        ends.append(list(model.parameters()))
    assert all(same(ends[0], end) for end in ends)


@every_contender
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda p: p[0], TypeError, "should be an iterable"),
        (lambda p: [{"params": set(p)}], TypeError, "ordered collections"),
        (lambda p: [p[0], 1.0], TypeError, "can only optimize Tensors"),
        (lambda p: [p[0] * 2], ValueError, "can't optimize a non-leaf Tensor"),
        (lambda p: [{"params": p}, {"params": p[:1]}], ValueError, "more than one parameter group"),
        (lambda p: [("first", p[0]), p[1]], ValueError, "names"),
        (lambda p: [], ValueError, "empty parameter list"),
    ],
    ids=["tensor", "set", "number", "non-leaf", "twice", "half named", "none"],
)
def test_what_is_no_list_of_parameters_is_refused(make, given, error, message):
    with pytest.raises(error, match=message):
        make(given(parameters()))


# ---------------------------------------------------------------- names


@every_contender
def test_names_are_kept_and_saved(make):
    model = network()
    optimizer = make(model.named_parameters())
    names = [name for name, _ in model.named_parameters()]
    assert optimizer.param_groups[0]["param_names"] == names
    assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], model.parameters(), strict=True))
    train(model, optimizer, range(1))
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == names
    assert copy.deepcopy(optimizer).param_groups[0]["param_names"] == names


@every_contender
def test_without_names_none_are_made_up(make):
    model = network()
    optimizer = make(model.parameters())
    assert "param_names" not in optimizer.param_groups[0]
    assert "param_names" not in optimizer.state_dict()["param_groups"][0]


@every_contender
def test_saved_names_replace_ours_and_missing_ones_do_not(make):
    first, second = parameters()
    named, other = make([("a", first), ("b", second)]), make([("x", first), ("y", second)])
    nameless = make([first, second])
    nameless.load_state_dict(named.state_dict())
    assert nameless.param_groups[0]["param_names"] == ["a", "b"]
    other.load_state_dict(named.state_dict())
    assert other.param_groups[0]["param_names"] == ["a", "b"]
    other.load_state_dict(make([first, second]).state_dict())
    assert other.param_groups[0]["param_names"] == ["a", "b"]


@every_contender
def test_a_hook_can_match_a_saved_state_by_name(make):
    """The way that torch's documentation gives for a checkpoint whose parameters come in another order."""
    first, second = parameters()
    mine = twins([first, second])
    saved = make([("a", first), ("b", second)], lr=1e-2)
    turned = make([("b", mine[1]), ("a", mine[0])], lr=1e-2)
    run(saved, [first, second], range(3))

    def by_name(optimizer, state_dict):
        group = state_dict["param_groups"][0]
        keys = dict(zip(group["param_names"], group["params"], strict=True))
        names = optimizer.param_groups[0]["param_names"]
        state = {index: state_dict["state"][keys[name]] for index, name in enumerate(names)}
        return {"state": state, "param_groups": [{**group, "param_names": list(names)}]}

    turned.register_load_state_dict_pre_hook(by_name)
    turned.load_state_dict(copy.deepcopy(saved.state_dict()))
    with torch.no_grad():
        for param, twin in zip((first, second), mine, strict=True):
            twin.copy_(param)
    run(saved, [first, second], range(3, 6))
    run(turned, mine, range(3, 6))
    assert turned.param_groups[0]["param_names"] == ["b", "a"]
    assert same([first, second], mine)


# ---------------------------------------------------------------- groups that come later


@every_way
@every_contender
def test_a_group_added_in_mid_training_starts_on_its_own(make, way):
    old, new = parameters(4)[:2], parameters(4)[2:]
    old_alone, new_alone = twins(old), twins(new)
    settings = {"lr": 1e-2, "weight_decay": 0.1, **way}
    late = {"lr": 3e-3, "weight_decay": 0.0}
    optimizer, without = make(old, **settings), make(old_alone, **settings)
    run(optimizer, old, range(3))
    optimizer.add_param_group({"params": new, **late})
    run(optimizer, [*old, *new], range(3, 5))
    assert [optimizer.state[param]["step"].item() for param in (*old, *new)] == [5, 5, 2, 2]
    run(without, old_alone, range(5))
    run(make(new_alone, **{**settings, **late}), new_alone, range(3, 5))
    assert same(old, old_alone)
    assert same(new, new_alone)


@every_contender
def test_what_an_added_group_does_not_say_is_the_default(make):
    first, second = parameters()
    optimizer = make([{"params": [first], "lr": 0.5}], lr=0.25, weight_decay=0.125)
    optimizer.param_groups[0]["weight_decay"] = 0.75
    optimizer.add_param_group({"params": second})
    group = optimizer.param_groups[1]
    assert len(optimizer.param_groups) == 2
    assert (group["lr"], group["weight_decay"]) == (0.25, 0.125)
    assert group.keys() == optimizer.param_groups[0].keys()
    assert set(optimizer.defaults) <= group.keys()
    assert group["params"][0] is second


@every_contender
def test_an_added_group_is_saved_and_loaded(make):
    first, second = parameters()
    optimizer = make([first], lr=1e-2)
    run(optimizer, [first], range(2))
    optimizer.add_param_group({"params": [second], "lr": 3e-3})
    run(optimizer, [first, second], range(2, 4))
    mine = twins([first, second])
    resumed = make([{"params": mine[:1]}, {"params": mine[1:]}])
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(optimizer, [first, second], range(4, 6))
    run(resumed, mine, range(4, 6))
    assert same([first, second], mine)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        make(twins(mine)).load_state_dict(optimizer.state_dict())


@every_contender
def test_a_parameter_is_not_added_twice(make):
    first, second = parameters()
    optimizer = make([first])
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [second, first]})
    assert len(optimizer.param_groups) == 1
    run(optimizer, [first, second], range(1))
    assert second not in optimizer.state


@every_contender
def test_a_parameter_twice_in_a_group_is_warned_about(make):
    first, second = parameters()
    with pytest.warns(UserWarning, match="duplicate parameters"):
        make([first, second, first])


@every_contender
def test_named_and_nameless_groups_do_not_mix(make):
    first, second, third, fourth = parameters(4)
    optimizer = make([("first", first)])
    optimizer.add_param_group({"params": [("second", second)]})
    assert optimizer.param_groups[1]["param_names"] == ["second"]
    with pytest.raises(ValueError, match="names"):
        optimizer.add_param_group({"params": [third]})
    with pytest.raises(ValueError, match="names"):
        make([third]).add_param_group({"params": [("fourth", fourth)]})
    assert len(optimizer.param_groups) == 2


@every_contender
@pytest.mark.parametrize("group", [[1.0], None, "params"], ids=str)
def test_a_group_is_a_dictionary(make, group):
    optimizer = make(parameters())
    with pytest.raises(TypeError, match="must be a dict"):
        optimizer.add_param_group(group)


# ---------------------------------------------------------------- frozen, late, shared


@every_way
@every_contender
def test_a_frozen_parameter_neither_moves_nor_decays(make, way):
    model = network()
    model[0].requires_grad_(False)
    start = copy.deepcopy(model)
    optimizer = make(model.parameters(), lr=1e-2, weight_decay=0.1, **way)
    train(model, optimizer, range(3))
    assert same(model[0].parameters(), start[0].parameters())
    assert not any(param in optimizer.state for param in model[0].parameters())
    assert not any(torch.equal(a, b) for a, b in zip(model[2].parameters(), start[2].parameters(), strict=True))


@every_way
@every_contender
def test_a_parameter_unfrozen_later_starts_at_its_own_first_step(make, way):
    settings = {"lr": 1e-2, "weight_decay": 0.1, **way}
    model, twin = network(), network()
    for each in (model, twin):
        each[0].requires_grad_(False)
    optimizer = make(model.parameters(), **settings)
    head = make(twin[2].parameters(), **settings)
    train(model, optimizer, range(3))
    train(twin, head, range(3))
    for each in (model, twin):
        each[0].requires_grad_(True)
    body = make(twin[0].parameters(), **settings)
    for step in range(3, 6):
        train(model, optimizer, [step])
        twin.zero_grad()
        loss_of(twin, step).backward()
        body.step()
        head.step()
    assert [optimizer.state[param]["step"].item() for param in model.parameters()] == [3, 3, 6, 6]
    assert same(model.parameters(), twin.parameters())


@every_contender
def test_a_parameter_frozen_again_keeps_its_state(make):
    model = network()
    optimizer = make(model.parameters(), lr=1e-2, weight_decay=0.1)
    train(model, optimizer, range(3))
    kept = copy.deepcopy([optimizer.state[param] for param in model[0].parameters()])
    held = copy.deepcopy(list(model[0].parameters()))
    model[0].requires_grad_(False)
    train(model, optimizer, range(3, 6))
    assert same(model[0].parameters(), held)
    for param, state in zip(model[0].parameters(), kept, strict=True):
        assert state["step"] == 3
        assert same(optimizer.state[param].values(), state.values())
    assert optimizer.state[model[2].weight]["step"] == 6


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        source = network()
        self.encode = nn.Linear(6, 4)
        self.decode = nn.Linear(6, 4, bias=False)
        self.encode.load_state_dict({"weight": source[0].weight.detach().T, "bias": source[0].bias.detach()[:4]})
        self.decode.weight = self.encode.weight

    def forward(self, inputs):
        return self.decode(self.encode(inputs).tanh() @ self.encode.weight)


@every_way
@every_contender
def test_a_parameter_shared_by_two_modules_is_stepped_once(make, way):
    model = Tied()
    weight, bias = twins([model.encode.weight, model.encode.bias])
    optimizer, plain = make(model.parameters(), lr=1e-2, **way), make([weight, bias], lr=1e-2, **way)
    for step in range(3):
        inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        weight.grad, bias.grad = model.encode.weight.grad.clone(), model.encode.bias.grad.clone()
        optimizer.step()
        plain.step()
    assert model.encode.weight is model.decode.weight
    assert len(optimizer.param_groups[0]["params"]) == len(optimizer.state) == 2
    assert optimizer.state[model.decode.weight]["step"] == 3
    assert same(model.parameters(), [weight, bias])


@every_way_that_knows_strides
@pytest.mark.parametrize("gradient", ["own", "bucket"])
def test_parameters_may_be_views_of_one_buffer(make, way, gradient):
    """Data-parallel trainers lay parameters and gradients out like that."""
    buffer, bucket = torch.randn(40, generator=torch.Generator().manual_seed(0)), torch.zeros(40)
    start = buffer.clone()
    cuts = {"row": lambda b: b[1:8], "matrix": lambda b: b[9:21].view(3, 4), "turned": lambda b: b[21:33].view(3, 4).T,
            "strided": lambda b: b[33:40:2]}  # fmt: skip
    params = [nn.Parameter(cut(buffer)) for cut in cuts.values()]
    mine = [param.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for param in params]
    optimizer, plain = (make(p, lr=1e-2, weight_decay=0.1, **way) for p in (params, mine))
    for step in range(3):
        feed(mine, step)
        for param, cut, twin in zip(params, cuts.values(), mine, strict=True):
            param.grad = cut(bucket).copy_(twin.grad) if gradient == "bucket" else twin.grad.clone()
        optimizer.step()
        plain.step()
    for param, twin, cut in zip(params, mine, cuts.values(), strict=True):
        assert param.data_ptr() == cut(buffer).data_ptr()
        torch.testing.assert_close(param, twin, rtol=1e-6, atol=1e-7)
        assert not torch.equal(param, cut(start))
    outside = [0, 8, 34, 36, 38]
    assert torch.equal(buffer[outside], start[outside])


@every_way
@every_contender
def test_two_optimizers_on_one_model_do_not_meet(make, way):
    model, twin = network(), network()
    body, head = make(model[0].parameters(), lr=1e-2, **way), make(model[2].parameters(), lr=3e-3, **way)
    both = make([{"params": twin[0].parameters()}, {"params": twin[2].parameters(), "lr": 3e-3}], lr=1e-2, **way)
    for step in range(4):
        body.zero_grad()
        head.zero_grad()
        loss_of(model, step).backward()
        head.step()
        body.step()
    train(twin, both, range(4))
    assert same(model.parameters(), twin.parameters())
    assert not set(body.state) & set(head.state)
