"""timm's factory, groups and schedulers with every optimizer."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import nn

from tests.battery.table import ROWS, every_optimizer
from tests.contract.contenders import feed, run, same
from tests.integrations.training import assert_same_state
from varigrad.integrations.timm import register

timm = pytest.importorskip("timm", reason="timm is not part of dev: it needs torchvision")
optim = pytest.importorskip("timm.optim")

from timm.optim._optim_factory import default_registry  # noqa: E402
from timm.scheduler import create_scheduler_v2  # noqa: E402


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(default_registry, "_optimizers", dict(default_registry._optimizers))
    return register()


def network():
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=3)


def ones():
    return [torch.ones(3, requires_grad=True)]


def named_groups(model, optimizer):
    """The group that each named parameter is in."""
    owner = {id(param): group for group in optimizer.param_groups for param in group["params"]}
    return {name: owner[id(param)] for name, param in model.named_parameters()}


def test_every_optimizer_is_registered_and_nothing_else_changed(registered):
    assert sorted(registered) == sorted(row.name.lower() for row in ROWS)
    assert set(registered) <= set(optim.list_optimizers())
    assert register() == registered
    assert optim.get_optimizer_class("adamw") is torch.optim.AdamW
    assert dict(optim.list_optimizers(with_description=True))["vsgd"].startswith("Variational stochastic gradient")


def test_a_name_that_is_taken_is_not_replaced(monkeypatch):
    default_registry.register(optim.OptimInfo(name="vsgd", opt_class=torch.optim.SGD))
    with pytest.raises(ValueError, match="'vsgd'"):
        register()
    assert optim.get_optimizer_info("vsgd").opt_class is torch.optim.SGD


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=pytest.mark.xfail(strict=True, reason="timm keeps the keyword `momentum` for itself"))
        if row.name == "AdamStar"
        else row
        for row in ROWS
    ],
    ids=lambda row: row.name,
)
def test_the_factory_hands_over_every_argument(row):
    name = row.name.lower()
    assert optim.get_optimizer_class(name) is row.optimizer
    settings = row.settings[-1]
    optimizer = optim.create_optimizer_v2(
        [torch.zeros(2, requires_grad=True)], name, lr=0.3, weight_decay=0.1, **settings
    )
    direct = row.optimizer([torch.zeros(2, requires_grad=True)], lr=0.3, weight_decay=0.1, **settings)
    assert type(optimizer) is row.optimizer
    assert optimizer.defaults == direct.defaults


@every_optimizer
def test_the_default_rate_is_the_optimizers_and_what_it_does_not_take_is_dropped(row):
    """timm's script hands `eps` and `betas` to every optimizer, and the factory `momentum`."""
    parameters = inspect.signature(row.optimizer).parameters
    optimizer = optim.create_optimizer_v2(network(), row.name, eps=1e-3, betas=(0.7, 0.8), momentum=0.5, foreach=True)
    assert optimizer.defaults["lr"] == parameters["lr"].default
    assert optimizer.defaults["foreach"] is True
    for argument, given in {"eps": 1e-3, "betas": (0.7, 0.8)}.items():
        assert optimizer.defaults.get(argument, given) == given
    assert optimizer.defaults.get("momentum") != 0.5


@every_optimizer
def test_biases_and_norms_do_not_decay(row):
    model = network()
    optimizer = optim.create_optimizer_v2(model, row.name, lr=1e-2, weight_decay=0.1)
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    for name, param in model.named_parameters():
        decays = param.ndim > 1 and name not in model.no_weight_decay()
        expected = before[name] * (1 - 1e-2 * 0.1) if decays else before[name]
        torch.testing.assert_close(param.detach(), expected, msg=name)


@every_optimizer
def test_layer_decay_scales_the_rate_of_every_step(row):
    """timm's schedulers multiply the rate by the group's lr_scale: a layer's first step must be scaled alike."""
    model = network()
    optimizer = optim.create_optimizer_v2(model, row.name, lr=1e-2, weight_decay=0.1, layer_decay=0.5)
    scheduler, _ = create_scheduler_v2(
        optimizer, "cosine", num_epochs=4, warmup_epochs=2, warmup_lr=1e-3, step_on_epochs=True
    )
    scales = {name: group["lr_scale"] for name, group in named_groups(model, optimizer).items()}
    assert scales["head.weight"] == 1.0
    assert scales["patch_embed.proj.weight"] < scales["blocks.0.attn.qkv.weight"] < 1.0
    for epoch, rate in enumerate([1e-3, 5.5e-3, None, None]):
        scheduler.step(epoch)
        groups = named_groups(model, optimizer)
        if rate is not None:
            assert {name: group["lr"] for name, group in groups.items()} == pytest.approx(
                {name: rate * scale for name, scale in scales.items()}
            )
        before = {name: param.detach().clone() for name, param in model.named_parameters()}
        twins = {name: nn.Parameter(value.clone()) for name, value in before.items()}
        feed(model.parameters(), epoch)
        optimizer.step()
        if epoch == 0:  # the same step by hand, without timm
            for name, twin in twins.items():
                group = groups[name]
                alone = row.optimizer([twin], lr=group["lr"], weight_decay=group["weight_decay"])
                feed([twin], epoch)
                if "reference_lr" in group:
                    alone.param_groups[0]["reference_lr"] = group["reference_lr"]
                alone.step()
                torch.testing.assert_close(dict(model.named_parameters())[name], twin, msg=name)


SCHEDULES = ("cosine", "tanh", "step", "multistep", "plateau", "poly")


def rates(optimizer, schedule):
    """The learning rates of a run of timm's schedule, with noise where it has any."""
    scheduler, epochs = create_scheduler_v2(
        optimizer,
        schedule,
        num_epochs=6,
        decay_epochs=2,
        decay_milestones=[2, 4],
        patience_epochs=0,
        warmup_epochs=1,
        noise=[0.2, 0.6],
    )
    found = []
    for epoch in range(epochs):
        run(optimizer, optimizer.param_groups[0]["params"], [epoch])
        scheduler.step(epoch + 1, metric=0.0)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.filterwarnings("ignore:PlateauLRScheduler is deprecated:FutureWarning")
@pytest.mark.parametrize("schedule", SCHEDULES)
@every_optimizer
def test_every_scheduler_of_timm_sets_the_rate_that_it_sets_for_adamw(row, schedule):
    found = rates(row.optimizer(ones(), lr=1e-2), schedule)
    assert found == rates(torch.optim.AdamW(ones(), lr=1e-2), schedule)
    assert len(set(found)) > 2


@every_optimizer
def test_resuming_equals_not_having_stopped(row):
    """As timm's CheckpointSaver does it: the state dicts of model, optimizer and scheduler."""

    def parts():
        model = network().eval()
        optimizer = optim.create_optimizer_v2(model, row.name, lr=1e-2, weight_decay=0.1, layer_decay=0.5)
        return model, optimizer, create_scheduler_v2(optimizer, "cosine", num_epochs=6, warmup_epochs=1)[0]

    def train(model, optimizer, scheduler, epochs):
        for epoch in epochs:
            optimizer.zero_grad()
            images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(epoch))
            nn.functional.cross_entropy(model(images), torch.tensor([0, 1])).backward()
            optimizer.step()
            scheduler.step(epoch + 1)

    whole, again = parts(), parts()
    train(*whole, range(2))
    for part, other in zip(whole, again, strict=True):
        other.load_state_dict(part.state_dict())
    train(*whole, range(2, 4))
    train(*again, range(2, 4))
    assert same(again[0].parameters(), whole[0].parameters())
    assert_same_state(again[1], whole[1])


# ---------------------------------------------------------------- Lookahead


def lookahead(row, params):
    return optim.create_optimizer_v2(params, f"lookahead_{row.name.lower()}", lr=1e-2)


@every_optimizer
def test_lookahead_takes_every_sixth_step_back_half_way(row):
    params, fast, slow = ones(), ones(), None
    alone = row.optimizer(fast, lr=1e-2)
    run(lookahead(row, params), params, range(18))
    for step in range(18):
        run(alone, fast, [step])
        if step % 6 == 5:
            slow = fast[0].detach().clone() if slow is None else slow + 0.5 * (fast[0].detach() - slow)
            fast[0].data.copy_(slow)
    torch.testing.assert_close(params, fast)


@every_optimizer
def test_lookahead_resumes(row):
    params = ones()
    optimizer = lookahead(row, params)
    run(optimizer, params, range(8))
    again = [param.detach().clone().requires_grad_() for param in params]
    resumed = lookahead(row, again)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(optimizer, params, range(8, 14))
    run(resumed, again, range(8, 14))
    assert same(again, params)
