"""Every optimizer refuses what it cannot use, naming the argument, the value and what is accepted."""

import inspect

import pytest
import torch

from .table import INFINITE, ROWS, UNBOUNDED, every_optimizer


def parameter():
    return torch.zeros(3, requires_grad=True)


SHARED_BAD = {"lr": (-1.0, *INFINITE), "weight_decay": UNBOUNDED}
BAD = [
    pytest.param(row, name, value, id=f"{row.name}-{name}={value}")
    for row in ROWS
    for name, values in {**SHARED_BAD, **row.bad}.items()
    for value in values
]


def assert_named(raised, row, name, value):
    text = str(raised.value)
    assert row.name in text
    assert f"{name}" in text
    assert "must be" in text
    if not isinstance(value, tuple):
        assert repr(value) in text


@pytest.mark.parametrize(("row", "name", "value"), BAD)
def test_a_value_out_of_range_in_the_constructor(row, name, value):
    with pytest.raises(ValueError, match=name) as raised:
        row.optimizer([parameter()], **{name: value})
    assert_named(raised, row, name, value)


@pytest.mark.parametrize(("row", "name", "value"), BAD)
def test_a_value_out_of_range_in_any_group(row, name, value):
    groups = [{"params": [parameter()]}, {"params": [parameter()], name: value}]
    with pytest.raises(ValueError, match="parameter group 1") as raised:
        row.optimizer(groups)
    assert_named(raised, row, name, value)


@pytest.mark.parametrize(("row", "name", "value"), BAD)
def test_a_value_out_of_range_set_later_is_refused_before_anything_moves(row, name, value):
    param = parameter()
    param.grad = torch.ones(3)
    optimizer = row.optimizer([param])
    optimizer.param_groups[0][name] = value
    with pytest.raises(ValueError, match=name):
        optimizer.step()
    assert param.abs().max() == 0
    assert not optimizer.state


@every_optimizer
def test_the_table_names_every_hyperparameter(row):
    """A hyperparameter that the table forgets would never be tested."""
    signature = inspect.signature(row.optimizer).parameters
    numbers = {
        name
        for name, parameter in signature.items()
        if isinstance(parameter.default, (int, float, tuple)) and not isinstance(parameter.default, bool)
    }
    assert numbers == {*SHARED_BAD, *row.bad}


@every_optimizer
@pytest.mark.parametrize("value", ["0.1", None, True, [0.1]])
def test_a_value_of_the_wrong_type(row, value):
    with pytest.raises(TypeError, match=r"lr = .* must be a finite number >= 0"):
        row.optimizer([parameter()], lr=value)


@every_optimizer
@pytest.mark.parametrize("flag", ["maximize", "foreach", "fused", "capturable", "differentiable"])
def test_a_flag_of_the_wrong_type(row, flag):
    with pytest.raises(TypeError, match=f"{flag} = 'yes' is not accepted: it must be True"):
        row.optimizer([parameter()], **{flag: "yes"})


@every_optimizer
def test_an_unknown_keyword(row):
    with pytest.raises(TypeError, match="bta"):
        row.optimizer([parameter()], bta=0.5)
    with pytest.raises(TypeError, match=f"parameter group 1 has the key 'bta', which {row.name} does not know"):
        row.optimizer([{"params": [parameter()]}, {"params": [parameter()], "bta": 0.5}])


@every_optimizer
def test_keys_that_trainers_and_schedulers_write_are_welcome(row):
    group = {"params": [parameter()], "name": "backbone", "lr_scale": 0.5, "initial_lr": 0.1}
    assert row.optimizer([group]).param_groups[0]["name"] == "backbone"


@every_optimizer
def test_no_parameters(row):
    with pytest.raises(ValueError, match="empty parameter list"):
        row.optimizer([])
    with pytest.raises(TypeError, match="iterable"):
        row.optimizer(parameter())


@every_optimizer
def test_sparse_gradients_say_what_to_do_and_change_nothing(row):
    dense, sparse = parameter(), parameter()
    optimizer = row.optimizer([dense, sparse])
    dense.grad = torch.ones(3)
    sparse.grad = torch.ones(3).to_sparse()
    with pytest.raises(RuntimeError, match=r"number 1 of group 0 has a sparse one: .*sparse=False.*SparseAdam"):
        optimizer.step()
    assert dense.abs().max() == 0
    assert not optimizer.state


@every_optimizer
@pytest.mark.parametrize("flags", [("foreach", "fused"), ("foreach", "differentiable"), ("fused", "differentiable")])
def test_flags_that_exclude_each_other(row, flags):
    with pytest.raises(RuntimeError, match=f"{flags[0]}=True"):
        row.optimizer([parameter()], **dict.fromkeys(flags, True))


@every_optimizer
def test_a_model_in_place_of_its_parameters(row):
    if row.name == "AdaptiveMuon":
        pytest.skip("it takes a model, to tell which of its parameters are matrices")
    with pytest.raises(TypeError, match=rf"not the model: {row.name}\(model\.parameters\(\)"):
        row.optimizer(torch.nn.Linear(2, 2))


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex32], ids=str)
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_a_parameter_of_a_dtype_that_nothing_trains_in(row, dtype):
    """It may be there if it is frozen, as the weights under an adapter are."""
    param = torch.zeros(3).to(dtype)
    optimizer = row.optimizer([parameter(), param])
    with pytest.raises(
        RuntimeError, match=rf"parameter number 1 of group 1, which is of {dtype}: keep it in torch\.bf"
    ):
        optimizer.add_param_group({"params": [parameter(), torch.zeros(3).to(dtype).requires_grad_()]})
    assert len(optimizer.param_groups) == 1


@every_optimizer
def test_differentiable_steps_of_a_leaf_say_what_to_do_and_change_nothing(row):
    param = parameter()
    param.grad = torch.ones(3)
    optimizer = row.optimizer([param], differentiable=True)
    with pytest.raises(RuntimeError, match=r"differentiable=True .* number 0 of group 0.* clone\(\)"):
        optimizer.step()
    assert not optimizer.state


@every_optimizer
def test_the_state_of_adamw_says_how_it_can_be_had(row):
    param = parameter()
    param.grad = torch.ones(3)
    adamw = torch.optim.AdamW([param])
    adamw.step()
    optimizer = row.optimizer([parameter()])
    with pytest.raises(ValueError, match=rf"not {row.name}'s: .*varigrad\.convert_state\(state_dict, to=optimizer\)"):
        optimizer.load_state_dict(adamw.state_dict())


@every_optimizer
def test_a_whole_checkpoint_in_place_of_the_optimizers_part(row):
    optimizer = row.optimizer([parameter()])
    whole = {"model": {}, "optimizer": optimizer.state_dict()}
    with pytest.raises(ValueError, match="it has no param_groups and no state; it has model, optimizer"):
        optimizer.load_state_dict(whole)


@every_optimizer
def test_what_may_be_none_is_told(row):
    with pytest.raises(
        TypeError, match=r"state_dtype = 'bfloat16' is not accepted: it must be torch\.bfloat16, or None"
    ):
        row.optimizer([parameter()], state_dtype="bfloat16")
