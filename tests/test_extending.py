"""The check that a rule of one's own is handed to: it accepts what is right and refuses what is wrong."""

import math

import pytest
import torch

import varigrad
from tests import reference
from varigrad import extending
from varigrad.engine.groups import FLAGS
from varigrad.extending import Interval, RuleOptimizer, check, rule


def in_torch(transcription):
    """A transcription on numpy arrays as one on tensors."""

    def run(theta, gradients, lr, **settings):
        columns = [None if gradient is None else gradient.numpy() for gradient in gradients]
        return list(torch.from_numpy(transcription(theta.numpy(), columns, list(lr), **settings)))[1:]

    return run


@pytest.mark.parametrize("optimizer", [varigrad.ConstantVSGD, varigrad.MSGD, varigrad.SSD], ids=lambda o: o.__name__)
def test_the_packages_optimizers_pass(optimizer):
    transcriptions = {"ConstantVSGD": reference.constant_vsgd, "MSGD": reference.msgd, "SSD": reference.ssd}
    ways = check(optimizer, in_torch(transcriptions[optimizer.__name__]))
    assert {"loop", "foreach", "capturable"} <= set(ways)


@rule(state=("mean",))
def averaging(param, grad, mean, *, lr, beta):
    mean = beta * mean + (1 - beta) * grad
    return param - lr * mean, mean


class Averaging(RuleOptimizer):
    rule = averaging
    accepts = {"beta": Interval(0.0, 1.0, open_high=True)}  # noqa: RUF012

    def __init__(self, params, lr=1e-2, beta=0.9, weight_decay=0.0, **flags):
        super().__init__(params, locals())

    def scalars(self, step, group, memory):
        return {"lr": group["lr"], "beta": group["beta"]}


def transcription(theta, gradients, lr, weight_decay=0.0, beta=0.9):
    mean = torch.zeros_like(theta)
    for rate, gradient in zip(lr, gradients, strict=True):
        if gradient is not None:
            mean = mean + (1 - beta) * (gradient - mean)
            theta = theta - rate * weight_decay * theta - rate * mean
        yield theta


def test_a_rule_of_ones_own_passes():
    assert "fused" not in check(Averaging, transcription, settings=[{}, {"beta": 0.5}])


class WrongFormula(Averaging):
    def scalars(self, step, group, memory):
        return {"lr": group["lr"], "beta": group["beta"] * (1 + 1e-7)}


class WrongOnlyWithASetting(Averaging):
    def scalars(self, step, group, memory):
        return {"lr": group["lr"], "beta": 0.9 if group["beta"] == 0.5 else group["beta"]}


class CountsForAll(Averaging):
    """Decays by a count of the optimizer's steps, not the parameter's."""

    def step(self, closure=None):
        self.count = getattr(self, "count", 0) + 1
        return super().step(closure)

    def scalars(self, step, group, memory):
        return {"lr": group["lr"], "beta": group["beta"] + 1e-3 * (self.count - step) / self.count}


class WritesGradients(Averaging):
    def step(self, closure=None):
        super().step(closure)
        for param in self.param_groups[0]["params"]:
            if param.grad is not None:
                param.grad.mul_(2)


class DecaysWithoutGradient(Averaging):
    def step(self, closure=None):
        super().step(closure)
        for param in self.param_groups[0]["params"]:
            if param.grad is None and self.param_groups[0]["weight_decay"] and len(param) == 5:
                param.data.mul_(0.99)


class SpreadsNaN(Averaging):
    def step(self, closure=None):
        super().step(closure)
        params = [param for group in self.param_groups for param in group["params"] if param.grad is not None]
        if any(param.grad.isnan().any() for param in params):
            for param in params:
                param.data.fill_(math.nan)


class CachesAtConstruction(Averaging):
    def __init__(self, params, lr=1e-2, beta=0.9, weight_decay=0.0, **flags):
        super().__init__(params, lr, beta, weight_decay, **flags)
        self.beta = beta

    def scalars(self, step, group, memory):
        return {"lr": group["lr"], "beta": self.beta}


class KeepsOnItself(Averaging):
    """Its step size depends on a count that state_dict does not have."""

    def step(self, closure=None):
        self.count = getattr(self, "count", 0) + 1
        return super().step(closure)

    def scalars(self, step, group, memory):
        return {"lr": group["lr"] * (0.5 if step > self.count else 1.0), "beta": group["beta"]}


class IgnoresMaximize(Averaging):
    def __init__(self, params, lr=1e-2, beta=0.9, weight_decay=0.0, maximize=False, **flags):
        super().__init__(params, lr, beta, weight_decay, **flags)


class ConjugatesComplex(Averaging):
    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for param in group["params"]:
                if param.is_complex():
                    param.data.conj_physical_()


class SwallowsArguments(Averaging):
    def __init__(self, params, lr=1e-2, beta=0.9, weight_decay=0.0, **flags):
        known = {name: value for name, value in flags.items() if name in FLAGS}
        super().__init__(params, lr, beta, weight_decay, **known)


class AcceptsNaN(Averaging):
    def __init__(self, params, lr=1e-2, beta=0.9, weight_decay=0.0, **flags):
        super().__init__(params, lr, 0.9 if math.isnan(beta) else beta, weight_decay, **flags)


FAULTS = {
    WrongFormula: "from the transcription",
    WrongOnlyWithASetting: "beta=0.5",
    CountsForAll: "from the transcription",
    WritesGradients: "has written to a gradient",
    DecaysWithoutGradient: "whose gradient is None",
    SpreadsNaN: "a NaN in one element's gradient has reached others",
    CachesAtConstruction: "beta = 0.95 of a parameter group is not followed",
    KeepsOnItself: "resumed",
    IgnoresMaximize: "maximize",
    ConjugatesComplex: "complex",
    SwallowsArguments: "has accepted an_unknown_argument",
    AcceptsNaN: "has accepted beta = nan",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda kind: kind.__name__)
def test_a_planted_fault_is_found(fault, monkeypatch):
    # The mathematics of one way alone: what is planted is planted in all of them.
    monkeypatch.setattr("varigrad.checks.WAYS", {"loop": {"foreach": False, "fused": False}})
    with pytest.raises(AssertionError, match=FAULTS[fault]):
        check(fault, transcription, settings=[{}, {"beta": 0.5}])


def test_a_flag_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="Averaging does not take the argument 'forech'; besides its own it takes"):
        Averaging([torch.zeros(1, requires_grad=True)], forech=True)


def test_every_name_is_exported():
    assert all(hasattr(extending, name) for name in extending.__all__)
