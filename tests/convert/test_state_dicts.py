"""Whole state dicts: what is kept, what is refused, who can load the result."""

import copy
import io
import math

import pytest
import torch

import varigrad
from varigrad.convert.targets import TARGETS
from varigrad.lab.optimizers import OPTIMIZERS

from .jobs import LR, adam, converted, loaded, stream

WAYS = {"loop": {"foreach": False, "fused": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
every_target = pytest.mark.parametrize("to", TARGETS)
SHAPES = {"matrix": (4, 3), "vector": (5,), "late": (2, 2), "never": (2,), "scalar": ()}


def job(names=True, **arguments):
    """AdamW after 12 steps on two groups; one parameter starts late and one never does."""
    generator = torch.Generator().manual_seed(0)
    named = [(name, torch.randn(shape, generator=generator).requires_grad_()) for name, shape in SHAPES.items()]
    items = named if names else [param for _, param in named]
    groups = [{"params": items[:2]}, {"params": items[2:], "lr": 3e-3, "betas": (0.8, 0.99), "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=LR, weight_decay=0.1, **arguments)
    drive(adamw, range(12))
    return adamw


def parameters(optimizer):
    return [param for group in optimizer.param_groups for param in group["params"]]


def successor(adamw, kind):
    """A fresh optimizer for copies of the parameters, in the same groups."""
    return kind([{"params": [p.detach().clone().requires_grad_() for p in g["params"]]} for g in adamw.param_groups])


def drive(optimizer, steps):
    """Steps on gradients that depend on the step and the position alone."""
    for step in steps:
        for (position, param), name in zip(enumerate(parameters(optimizer)), SHAPES, strict=True):
            generator = torch.Generator().manual_seed(100 * step + position)
            if name != "never" and (name != "late" or step >= 7):
                param.grad = torch.randn(param.shape, generator=generator)
        optimizer.step()


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for child in children for tensor in tensors(child)]


def identical(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(identical(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(identical, one, other))
    return one == other


# ---------------------------------------------------------------- who can load it


@pytest.mark.parametrize("way", ["foreach", "fused"])
@every_target
def test_every_optimizer_loads_it_in_every_way_and_goes_on(to, way):
    adamw = job()
    kind = TARGETS[to].kind
    buffer = io.BytesIO()
    torch.save(converted(adamw, to), buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    trained = []
    for flags in (WAYS["loop"], WAYS[way]):
        ours = successor(adamw, kind)
        ours.load_state_dict(saved)
        for group in ours.param_groups:
            group.update(flags)
        steps = [ours.state[p]["step"].item() if p in ours.state else None for p in parameters(ours)]
        assert steps == [12, 12, 5, None, 12]
        drive(ours, range(12, 20))
        assert ours.state[parameters(ours)[2]]["step"] == 13
        trained.append(parameters(ours))
    for name, reference, ours, start in zip(SHAPES, *trained, parameters(adamw), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-7)
        assert torch.equal(reference, start) == (name == "never")


@every_target
def test_the_result_is_what_the_optimizer_itself_would_save(to):
    """The same keys of groups and states, dtypes and shapes; what only a fresh optimizer has differs in values."""
    adamw = job(names=False)
    own = successor(adamw, TARGETS[to].kind)
    drive(own, range(12))
    result, saved = converted(adamw, to), own.state_dict()
    assert result["state"].keys() == saved["state"].keys()
    for key, state in saved["state"].items():
        for name, value in state.items():
            ours = result["state"][key][name]
            assert (ours.dtype, ours.shape, ours.device) == (value.dtype, value.shape, value.device)
        assert result["state"][key].keys() == state.keys()
    for ours, theirs in zip(result["param_groups"], saved["param_groups"], strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["params"] == theirs["params"]


@every_target
def test_a_name_a_class_and_an_optimizer_lead_to_the_same(to):
    adamw, param = adam(stream())
    kind = TARGETS[to].kind
    optimizer = kind([param], lr=LR)
    by_name = converted(adamw, to)
    for target in (kind, optimizer, type("Derived", (kind,), {}), to.replace("-", "_")):
        assert identical(converted(adamw, target), by_name)


def test_the_names_are_those_of_the_lab():
    ours = {name: row.optimizer for name, row in OPTIMIZERS.items() if row.class_name.startswith("varigrad.")}
    for name, target in TARGETS.items():
        assert ours[name] is target.kind


def test_the_settings_of_a_given_optimizer_count_group_by_group():
    adamw = job()
    mine = [[p.detach().clone().requires_grad_() for p in group["params"]] for group in adamw.param_groups]
    optimizer = varigrad.VSGD(
        [{"params": mine[0]}, {"params": mine[1], "prior_strength": 1e-3}], lr=0.5, kappas=(0.6, 0.7), foreach=True
    )
    before = copy.deepcopy(optimizer.state_dict())
    result = converted(adamw, optimizer)
    assert identical(optimizer.state_dict(), before)
    one, two = result["param_groups"]
    assert (one["prior_strength"], two["prior_strength"]) == (1e-8, 1e-3)
    assert one["kappas"] == two["kappas"] == (0.6, 0.7)
    assert one["foreach"] is two["foreach"] is True
    assert (one["lr"], two["lr"]) == (LR, 3e-3)
    assert (result["state"][4]["observation_var"] > 2 * 30 * 1e-3 * 12**-0.7 / 1.0022).all()
    assert (result["state"][0]["observation_var"] < 30).all()


# ---------------------------------------------------------------- what is kept


def test_groups_keep_what_is_not_adams():
    adamw = job()
    adamw.param_groups[1].update(initial_lr=7e-3, max_lr=0.3, name="head", lr_scale=0.5, mine={"a": [1]})
    result = converted(adamw)
    one, two = result["param_groups"]
    assert one["param_names"] == ["matrix", "vector"]
    assert two["param_names"] == ["late", "never", "scalar"]
    assert [one["params"], two["params"]] == [[0, 1], [2, 3, 4]]
    assert (one["lr"], one["weight_decay"], two["lr"], two["weight_decay"]) == (LR, 0.1, 3e-3, 0.0)
    kept = {key: two[key] for key in ("initial_lr", "max_lr", "name", "lr_scale", "mine")}
    assert kept == {"initial_lr": 7e-3, "max_lr": 0.3, "name": "head", "lr_scale": 0.5, "mine": {"a": [1]}}
    for group in (one, two):
        assert not {"betas", "amsgrad", "decoupled_weight_decay"} & group.keys()
        assert group["foreach"] is group["fused"] is None
        assert group["capturable"] is group["differentiable"] is group["maximize"] is False


def test_betas_and_eps_go_where_they_mean_the_same():
    adamw = job(eps=1e-5)
    settings = {to: converted(adamw, to)["param_groups"][1] for to in TARGETS}
    assert settings["vsgd"]["eps"] == settings["constant-vsgd"]["eps"] == 1e-5
    assert math.isclose(settings["constant-vsgd"]["variance_ratio"], 4.0)
    assert settings["adabayes-fp"]["betas"] == (0.8, 0.99)
    assert settings["adabayes-fp"]["eps"] == 0.0
    for to in ("adabayes", "svag", "msvag", "adam-star", "msgd", "mssd"):
        assert settings[to]["beta"] == 0.8


@every_target
def test_the_argument_is_neither_changed_nor_shared(to):
    adamw = job()
    adamw.param_groups[0]["lr"] = torch.tensor(LR)
    adamw.param_groups[0]["mine"] = [torch.ones(2)]
    saved = adamw.state_dict()
    before = copy.deepcopy(saved)
    result = varigrad.convert_state(saved, to)
    assert identical(saved, before)
    kept = copy.deepcopy(result)
    for tensor in tensors(saved):
        tensor.fill_(torch.nan)
    saved["param_groups"][0]["params"].append(99)
    saved["param_groups"][0]["param_names"].append("other")
    assert identical(result, kept)
    places = [tensor.data_ptr() for tensor in tensors(result)]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        *((torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float32, torch.float32)),
        *((torch.float64, torch.float64), (torch.complex64, torch.complex64), (torch.complex128, torch.complex128)),
    ],
)
@every_target
def test_state_has_at_least_the_digits_of_float32(to, dtype, kept):
    adamw, param = adam(stream(), dtype=dtype)
    result = converted(adamw, to)
    for name, value in result["state"][0].items():
        # What belongs to the tensor as a whole is a real number.
        assert value.dtype == (torch.float32 if name == "step" else kept if value.dim() else kept.to_real())
    if dtype.itemsize == 2 and to == "vsgd":
        exact = adamw.state_dict()["state"][0]["exp_avg"].double() / (1 - 0.9**30)
        torch.testing.assert_close(result["state"][0]["mean"], exact.float(), rtol=1e-6, atol=0)
    ours, _ = loaded(result, TARGETS[to].kind, param)
    ours.param_groups[0]["params"][0].grad = torch.ones_like(param)
    ours.step()


@every_target
def test_a_complex_weight_is_two_real_ones(to):
    gradients = stream(size=20)
    pairs = torch.view_as_complex(torch.from_numpy(gradients).reshape(30, 10, 2))
    one, two = adam(gradients)[0], adam(pairs.numpy(), dtype=torch.complex128)[0]
    real, paired = converted(one, to), converted(two, to)
    for name, value in paired["state"][0].items():
        if name != "step":
            assert torch.equal(torch.view_as_real(value).flatten() if value.dim() else value, real["state"][0][name])
    assert paired["param_groups"] == real["param_groups"]


def test_the_layout_in_memory_is_kept():
    param = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    adamw = torch.optim.AdamW([param])
    for _ in range(2):
        param.grad = torch.randn_like(param)
        adamw.step()
    state = converted(adamw)["state"][0]
    assert all(state[name].stride() == param.stride() for name in state if name != "step")


def test_a_parameter_that_was_never_stepped_begins_anew():
    adamw = job()
    assert 3 not in converted(adamw)["state"]
    saved = adamw.state_dict()
    for key in saved["state"]:
        saved["state"][key]["step"].zero_()
    assert varigrad.convert_state(saved)["state"] == {}
    assert varigrad.convert_state(torch.optim.AdamW([torch.zeros(1)]).state_dict())["state"] == {}


@pytest.mark.parametrize("step", [12, torch.tensor(12.0, dtype=torch.float64), torch.tensor([12.0])])
def test_steps_of_every_kind_are_counted_on(step):
    """Old versions of torch kept a number, those with another default dtype float64."""
    saved = copy.deepcopy(job().state_dict())
    saved["state"][0]["step"] = step
    ours = varigrad.convert_state(saved)["state"][0]["step"]
    assert (ours.item(), ours.shape, ours.dtype) == (12.0, (), torch.float32)


def test_a_capturable_job_stays_capturable():
    adamw, param = adam(stream())
    adamw.param_groups[0].update(capturable=True, foreach=True, lr=torch.tensor(LR))
    result = converted(adamw)
    group = result["param_groups"][0]
    assert group["capturable"] is True
    assert group["foreach"] is None
    assert torch.equal(group["lr"], torch.tensor(LR))
    ours, (twin,) = loaded(result, varigrad.VSGD, param)
    twin.grad = torch.ones_like(twin)
    ours.step()
    assert ours.state[twin]["step"] == 31
    scaled = converted(adamw, variances="noise")["param_groups"][0]["lr"]
    assert isinstance(scaled, torch.Tensor)
    assert 0 < scaled < LR


def test_groups_named_by_strings_are_groups_too():
    """As distributed checkpoints name them."""
    saved = job().state_dict()
    renamed = {
        "state": {f"net.{key}": state for key, state in saved["state"].items()},
        "param_groups": [{**g, "params": [f"net.{key}" for key in g["params"]]} for g in saved["param_groups"]],
    }
    result, plain = varigrad.convert_state(renamed), varigrad.convert_state(saved)
    assert result["param_groups"][1]["params"] == ["net.2", "net.3", "net.4"]
    assert identical(result["state"]["net.4"], plain["state"][4])


def test_a_scheduler_goes_on():
    adamw = job()
    schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: 0.5**step)
    drive(adamw, range(12, 13))
    schedule.step()
    optimizer = successor(adamw, varigrad.VSGD)
    optimizer.load_state_dict(converted(adamw))
    new = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step, last_epoch=schedule.last_epoch)
    new.load_state_dict(schedule.state_dict())
    drive(optimizer, range(13, 14))
    new.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([LR / 4, 3e-3 / 4])


def test_adam_without_weight_decay_is_adamw():
    gradients = stream()
    saved = [adam(gradients, kind, weight_decay=0.0)[0].state_dict() for kind in (torch.optim.Adam, torch.optim.AdamW)]
    assert identical(*map(varigrad.convert_state, saved))


# ---------------------------------------------------------------- what is refused


def broken(change):
    saved = copy.deepcopy(job().state_dict())
    change(saved["param_groups"], saved["state"])
    return saved


BROKEN = {
    "no step": (lambda groups, state: state[0].pop("step"), "for parameter 0 it holds exp_avg, exp_avg_sq, where"),
    "other state": (lambda groups, state: state[0].update(state1=1), "exp_avg, exp_avg_sq, state1, step, where"),
    "negative step": (lambda groups, state: state[0].update(step=-1), "step of parameter 0 is -1"),
    "half a step": (lambda groups, state: state[0].update(step=1.5), "step of parameter 0 is 1.5"),
    "no number": (lambda groups, state: state[0].update(step=math.nan), "step of parameter 0 is nan"),
    "shape": (lambda groups, state: state[1].update(exp_avg_sq=torch.ones(4)), r"parameter 1 has the shape \(4,\)"),
    "infinite": (lambda groups, state: state[1]["exp_avg"].fill_(math.inf), "exp_avg of parameter 1 does not hold fin"),
    "negative": (lambda groups, state: state[1]["exp_avg_sq"].neg_(), "exp_avg_sq of parameter 1 does not hold .*>= 0"),
    "left over": (lambda groups, state: state.update({9: state[0]}), "holds state for 9, which no parameter group has"),
    "no betas": (lambda groups, state: groups[1].pop("betas"), "parameter group 1 has no betas"),
    "coupled": (lambda groups, state: groups[0].update(decoupled_weight_decay=False), "weight_decay = 0.1 of param"),
    "unknown decay": (lambda groups, state: groups[0].pop("decoupled_weight_decay"), "set decoupled_weight_decay to"),
    "no average": (lambda groups, state: groups[1].update(betas=(0.0, 0.9)), r"betas\[0\] = 0 of parameter group 1"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_state_that_cannot_be_converted_is_refused(case):
    change, message = BROKEN[case]
    with pytest.raises(ValueError, match=message):
        varigrad.convert_state(broken(change))


def test_without_an_average_what_needs_none_converts():
    saved = broken(BROKEN["no average"][0])
    for to, target in TARGETS.items():
        if not target.for_noise:
            varigrad.convert_state(saved, to)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda params: torch.optim.SGD(params, lr=LR, momentum=0.9),
        lambda params: torch.optim.RMSprop(params, centered=True),
        lambda params: torch.optim.RAdam(params),
        lambda params: torch.optim.NAdam(params),
        lambda params: torch.optim.Adamax(params),
        lambda params: varigrad.VSGD(params),
        lambda params: varigrad.AdaBayesFP(params),
    ],
)
def test_the_state_of_another_optimizer_is_refused(optimizer):
    param = torch.zeros(3, requires_grad=True)
    other = optimizer([param])
    param.grad = torch.ones(3)
    other.step()
    with pytest.raises(ValueError, match="not that of torch's Adam or AdamW"):
        converted(other)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"to": "adamw"}, ValueError, "to = 'adamw' is not accepted: it must be one of vsgd, constant-vsgd"),
        ({"to": torch.optim.AdamW}, TypeError, "to = AdamW is not accepted: it must be one of VSGD"),
        ({"to": None}, TypeError, "to = NoneType is not accepted"),
        ({"variances": "other"}, ValueError, "variances = 'other' is not accepted"),
        ({"variances": 1}, TypeError, "variances = 1 is not accepted"),
        ({"match_lr": 1}, TypeError, "match_lr = 1 is not accepted"),
        (
            {"to": "msvag", "variances": "noise"},
            ValueError,
            "variances = 'noise' is for VSGD, ConstantVSGD and Adaptive",
        ),
        ({"to": "adabayes", "match_lr": True}, ValueError, "match_lr = True is not for AdaBayes"),
        (
            {"to": varigrad.MSVAG([torch.zeros(1)], variance="batch")},
            ValueError,
            "to has variance = 'batch' in parameter group 0",
        ),
        ({"to": varigrad.VSGD([torch.zeros(1)])}, ValueError, "the state dict has 2 parameter groups, .* has 1"),
    ],
)
def test_a_wrong_argument_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        varigrad.convert_state(job().state_dict(), **arguments)


@pytest.mark.parametrize(
    ("state_dict", "error", "message"),
    [
        (torch.optim.AdamW([torch.zeros(1)]), TypeError, r"AdamW's state_dict\(\) returned, not AdamW"),
        ([], TypeError, "not list"),
        ({"model": 1, "optimizer": 2}, ValueError, "has no param_groups, state; it has model, optimizer"),
    ],
)
def test_what_is_no_state_dict_is_refused(state_dict, error, message):
    with pytest.raises(error, match=message):
        varigrad.convert_state(state_dict)


def test_vsgd_with_the_spread_of_the_batch_can_take_over():
    adamw, param = adam(stream())
    target = varigrad.VSGD([param], variance="batch")
    result = converted(adamw, target, variances="noise")
    assert result["param_groups"][0]["variance"] == "batch"
    target.load_state_dict(result)
