"""Every scheduler of torch, alone, in combination, over a stop, and with a tensor for the learning rate."""

import copy
import warnings

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

from .contenders import CONTENDERS, every_contender, loss_of, network, same

STEPS = 20
LR = 1e-2


def sequential(optimizer):
    warm_up = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5)
    return lr_scheduler.SequentialLR(optimizer, [warm_up, lr_scheduler.ExponentialLR(optimizer, 0.9)], [5])


def chained(optimizer):
    return lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer, 0.5, 4), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    )


def hump(step):
    return 0.1 + step * (STEPS - step) / STEPS**2


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, hump),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 6, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [3, 11], 0.3),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 7),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=8),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "SequentialLR": sequential,
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "ChainedScheduler": chained,
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1, threshold=0.9),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-3, LR, 4, cycle_momentum=False),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 6, 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, LR, total_steps=STEPS, cycle_momentum=False),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, STEPS, 2.0),
    "SWALR": lambda o: SWALR(o, swa_lr=1e-3, anneal_epochs=10),
}

every_scheduler = pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS)


def advance(scheduler):
    # A plateau from the start.
    scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))


def train(model, optimizer, scheduler, steps):
    """Trains under a scheduler; returns every group's rates."""
    rates = []
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        advance(scheduler)
    return rates


def expected_rates(schedule, lrs):
    """What the scheduler makes of torch's SGD."""
    optimizer = torch.optim.SGD([{"params": [torch.ones(1, requires_grad=True)], "lr": lr} for lr in lrs])
    scheduler = schedule(optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        advance(scheduler)
    return rates


def test_no_scheduler_of_torch_is_left_out():
    assert set(lr_scheduler.__all__) - {"LRScheduler"} <= SCHEDULERS.keys()


@every_scheduler
@every_contender
def test_a_scheduler_sets_the_rate_that_is_used(make, schedule):
    """Two groups under a scheduler do what they do when someone writes the same rates by hand."""
    model, twin, constant = network(), network(), network()

    def groups(net):
        return [{"params": net[0].parameters()}, {"params": net[2].parameters(), "lr": LR / 2}]

    optimizer = make(groups(model), lr=LR)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Detected call of `lr_scheduler.step")
        warnings.filterwarnings("error", message="Seems like `optimizer.step")
        rates = train(model, optimizer, schedule(optimizer), range(STEPS))
    assert rates == expected_rates(schedule, [LR, LR / 2])
    assert len({first for first, _ in rates}) > 1

    by_hand = make(groups(twin), lr=LR)
    unscheduled = make(groups(constant), lr=LR)
    for step, pair in enumerate(rates):
        for each, net in ((by_hand, twin), (unscheduled, constant)):
            each.zero_grad()
            loss_of(net, step).backward()
        for group, rate in zip(by_hand.param_groups, pair, strict=True):
            group["lr"] = rate
        by_hand.step()
        unscheduled.step()
    assert same(model.parameters(), twin.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(model.parameters(), constant.parameters(), strict=True))


@every_scheduler
@every_contender
def test_resuming_under_a_scheduler_is_not_having_stopped(make, schedule):
    whole = network()
    optimizer = make(whole.parameters(), lr=LR, weight_decay=0.1)
    scheduler = schedule(optimizer)
    train(whole, optimizer, scheduler, range(9))
    stopped = copy.deepcopy(whole)
    saved = copy.deepcopy((scheduler.state_dict(), optimizer.state_dict()))
    resumed = make(stopped.parameters(), lr=LR)
    restarted = schedule(resumed)
    restarted.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    rates = train(whole, optimizer, scheduler, range(9, STEPS))
    assert train(stopped, resumed, restarted, range(9, STEPS)) == rates
    assert same(whole.parameters(), stopped.parameters())


@every_scheduler
@every_contender
def test_a_scheduler_writes_into_a_tensor(make, schedule):
    """A tensor for the rate stays that tensor, because a captured graph reads it."""
    model, twin = network(dtype=torch.float64), network(dtype=torch.float64)
    rate = torch.tensor(LR, dtype=torch.float64)
    optimizer, plain = make(model.parameters(), lr=rate), make(twin.parameters(), lr=LR)
    rates = train(model, optimizer, schedule(optimizer), range(STEPS))
    assert optimizer.param_groups[0]["lr"] is rate
    usual = train(twin, plain, schedule(plain), range(STEPS))
    torch.testing.assert_close(torch.tensor(rates), torch.tensor(usual), rtol=1e-5, atol=1e-9)
    for param, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(param, other, rtol=1e-5, atol=1e-7)


@every_contender
def test_schedulers_may_be_stepped_together(make):
    """Two of them on one optimizer, a cut on a plateau among them."""
    model = network()
    optimizer = make(model.parameters(), lr=LR)
    decay = lr_scheduler.ExponentialLR(optimizer, 0.5)
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
    for step, metric in enumerate((3.0, 2.0, 2.5)):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        decay.step()
        plateau.step(metric)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(LR * 0.5**3 * 0.1)
    assert plateau.get_last_lr() == [optimizer.param_groups[0]["lr"]]


@every_contender
def test_a_scheduler_takes_up_a_run_in_the_middle(make):
    """With last_epoch, which needs the `initial_lr` that the first scheduler left in the groups."""
    model = network()
    optimizer = make(model.parameters(), lr=LR)
    train(model, optimizer, lr_scheduler.StepLR(optimizer, 2, 0.5), range(4))
    resumed = make(model.parameters())
    resumed.load_state_dict(optimizer.state_dict())
    scheduler = lr_scheduler.LambdaLR(resumed, lambda step: 0.9**step, last_epoch=3)
    assert scheduler.get_last_lr() == [pytest.approx(LR * 0.9**4)]
    with pytest.raises(KeyError, match="initial_lr"):
        lr_scheduler.LambdaLR(make(network().parameters()), hump, last_epoch=3)


# ---------------------------------------------------------------- schedulers that cycle the momentum

CYCLING = {
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, LR, total_steps=STEPS),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-3, LR, 4),
}
every_cycle = pytest.mark.parametrize("schedule", CYCLING.values(), ids=CYCLING)


def cycled(make):
    """The group key that torch cycles; empty where there is no momentum."""
    defaults = make([torch.ones(1, requires_grad=True)]).defaults
    return next((name for name in ("betas", "momentum") if name in defaults), "")


def test_every_optimizer_with_a_momentum_lets_it_be_cycled():
    without = {make.__name__ for make in CONTENDERS if not cycled(make)}
    assert without == {"VSGD", "ConstantVSGD", "AdaptiveVSGD", "AdaptiveMuon", "SSD"}


@every_cycle
@pytest.mark.parametrize("make", [make for make in CONTENDERS if cycled(make)], ids=lambda make: make.__name__)
def test_the_momentum_cycles_against_the_rate(make, schedule):
    """Setting the coefficient by hand, under the optimizer's own name for it, comes to the same."""
    model, twin, uncycled = network(), network(), network()
    optimizer, by_hand, constant = (make(net.parameters(), lr=LR) for net in (model, twin, uncycled))
    scheduler = schedule(optimizer)
    pairs = []
    for step in range(STEPS):
        for each, net in ((optimizer, model), (by_hand, twin), (constant, uncycled)):
            each.zero_grad()
            loss_of(net, step).backward()
        group = optimizer.param_groups[0]
        beta = group["betas"][0] if cycled(make) == "betas" else group["momentum"]
        pairs.append((group["lr"], beta))
        own = {"betas": (beta, group["betas"][1])} if cycled(make) == "betas" else {"beta": beta}
        by_hand.param_groups[0].update(lr=group["lr"], **own)
        constant.param_groups[0]["lr"] = group["lr"]
        for each in (optimizer, by_hand, constant):
            each.step()
        scheduler.step()
    assert min(pairs)[1] == max(beta for _, beta in pairs)
    assert max(pairs)[1] == min(beta for _, beta in pairs) < min(pairs)[1]
    if cycled(make) == "betas":
        assert group["betas"][1] == optimizer.defaults["betas"][1]
    assert same(model.parameters(), twin.parameters())
    assert not same(model.parameters(), uncycled.parameters())


@every_contender
def test_a_cycled_momentum_is_saved_and_loaded(make):
    if not cycled(make):
        pytest.skip("there is no momentum")
    model, twin = network(), network()
    optimizer = make(model.parameters(), lr=LR)
    scheduler = CYCLING["OneCycleLR"](optimizer)
    train(model, optimizer, scheduler, range(STEPS // 2))
    twin.load_state_dict(model.state_dict())
    resumed = make(twin.parameters(), lr=LR)
    follower = CYCLING["OneCycleLR"](resumed)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # AdamW would share its tensors
    follower.load_state_dict(scheduler.state_dict())
    for net, each, its in ((model, optimizer, scheduler), (twin, resumed, follower)):
        train(net, each, its, range(STEPS // 2, STEPS))
    assert same(model.parameters(), twin.parameters())


@every_cycle
@every_contender
def test_cycling_the_momentum_works_or_is_refused_at_once(make, schedule):
    """Where torch knows no momentum it says so when the scheduler is made; what it accepts must then train."""
    model = network()
    optimizer = make(model.parameters(), lr=LR)
    if not {"momentum", "betas"} & optimizer.defaults.keys():
        with pytest.raises(ValueError, match="must support momentum or beta1"):
            schedule(optimizer)
        return
    train(model, optimizer, schedule(optimizer), range(STEPS))
    assert all(param.isfinite().all() for param in model.parameters())


@pytest.mark.parametrize("value", [1.0, -0.1, float("nan"), "fast", None])
@pytest.mark.parametrize("make", [make for make in CONTENDERS if cycled(make) == "momentum"], ids=lambda m: m.__name__)
def test_a_cycled_momentum_is_checked(make, value):
    model = network()
    optimizer = make(model.parameters(), lr=LR)
    optimizer.param_groups[0]["momentum"] = value
    loss_of(model, 0).backward()
    with pytest.raises((TypeError, ValueError), match=rf"{make.__name__}'s momentum \(parameter group 0\) = "):
        optimizer.step()
    assert not optimizer.state
