"""The contestants of the study of AdaptiveVSGD: the rule itself, its controls, its variants, and other optimizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from controls import by_hand
from torch import nn

import varigrad


class ByHand(varigrad.AdaptiveVSGD):
    """AdaptiveVSGD with all gains at what the schedule says."""

    def scalars(self, step, group, memory):
        gain = torch.full_like(memory["gain"], group["gain_by_hand"])
        values = super().scalars(step, group, memory)
        return values | {"gain": gain, "weight": torch.clamp(gain, min=1.0 / step)}


def schedule_gain(optimizer: torch.optim.Optimizer, fraction: float) -> None:
    for group in optimizer.param_groups:
        group["gain_by_hand"] = by_hand(fraction)


def schedule_beta(optimizer: torch.optim.Optimizer, fraction: float) -> None:
    for group in optimizer.param_groups:
        group["betas"] = (1 - by_hand(fraction), group["betas"][1])


Hook = Callable[[torch.optim.Optimizer, float], None]


@dataclass(frozen=True)
class Contestant:
    """How an optimizer is made; `before` is called before each step with the fraction of the run that is done."""

    make: Callable[[nn.Module, float], list[torch.optim.Optimizer]]
    start: float
    before: Hook | None = None
    constant: bool = False


def simple(kind, start: float, before: Hook | None = None, **settings) -> Contestant:
    return Contestant(lambda model, lr: [kind(model.parameters(), lr=lr, **settings)], start, before)


def muon(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Hidden matrices by Muon at AdamW's scale of steps; the first and the last layer and all else by AdamW."""
    named = list(model.named_parameters())
    matrices = [name for name, p in named if p.ndim == 2 and not name.startswith(("token", "position", "head"))]
    if not hasattr(model, "head"):
        matrices = matrices[1:-1]
    hidden = [p for name, p in named if name in matrices]
    rest = [p for name, p in named if name not in matrices]
    return [
        torch.optim.Muon(hidden, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=lr, weight_decay=0.01),
    ]


def schedule_free(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    import schedulefree

    return [schedulefree.AdamWScheduleFree(model.parameters(), lr=lr, weight_decay=0.01, foreach=True)]


def variant(**constants) -> type[varigrad.AdaptiveVSGD]:
    return type("Variant", (varigrad.AdaptiveVSGD,), constants)


def with_gain(rule: type[torch.optim.Optimizer], start: float, nesterov: bool = False) -> Contestant:
    return Contestant(lambda model, lr: [rule(model.parameters(), lr=lr, weight_decay=0.01, nesterov=nesterov)], start)


def hand(nesterov: bool) -> Contestant:
    def make(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
        groups = [{"params": list(model.parameters())}]
        optimizer = ByHand(groups, lr=lr, weight_decay=0.01, nesterov=nesterov)
        schedule_gain(optimizer, 0.0)
        return [optimizer]

    return Contestant(make, 3e-3, schedule_gain)


CONTESTANTS = {
    "adaptive": with_gain(varigrad.AdaptiveVSGD, 3e-3),
    "hand-set": hand(nesterov=False),
    "adamw": simple(torch.optim.AdamW, 3e-3, weight_decay=0.01),
    "nadamw": simple(torch.optim.NAdam, 3e-3, weight_decay=0.01, decoupled_weight_decay=True),
    "adaptive-nesterov": with_gain(varigrad.AdaptiveVSGD, 3e-3, nesterov=True),
    "adamw-scheduled": simple(torch.optim.AdamW, 3e-3, schedule_beta, weight_decay=0.01),
    "hand-set-nesterov": hand(nesterov=True),
    "muon": Contestant(muon, 3e-3),
    "vsgd": simple(varigrad.VSGD, 3e-3, weight_decay=0.01),
    "sgd": simple(torch.optim.SGD, 0.1, momentum=0.9, weight_decay=5e-4),
    "schedule-free": Contestant(schedule_free, 3e-3, constant=True),
}


class Aimed(varigrad.AdaptiveVSGD):
    """AdaptiveVSGD that aims at a mean product of successive signs other than zero."""

    target = 0.0

    def scalars(self, step, group, memory):
        agreement = memory["agreement"] - self.target * memory["pairs"]
        return super().scalars(step, group, {**memory, "agreement": agreement})


VARIANTS = {
    "start_gain": (0.02, 0.1),
    "gain_rate": (0.1, 1.0),
    "gain_bounds": ((0.001, 0.9), (0.02, 0.9), (0.005, 0.7), (0.005, 0.99)),
    "prior_pairs": (0.1, 1.0, 100.0),
    "least_rate": (1e-2, 1e-4),
}
for _name, _values in VARIANTS.items():
    for _value in _values:
        _label = "-".join(map(str, _value)) if isinstance(_value, tuple) else str(_value)
        CONTESTANTS[f"adaptive,{_name}={_label}"] = with_gain(variant(**{_name: _value}), 3e-3)
for _value in (-0.1, -0.03, 0.03, 0.1):
    CONTESTANTS[f"adaptive,target={_value}"] = with_gain(type("Variant", (Aimed,), {"target": _value}), 3e-3)
