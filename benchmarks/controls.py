"""Optimizers that tell what AdaptiveVSGD owes to what: its gain set by hand, and AdamW with the same momentum.

    varigrad tune --task benchmarks/short_tasks.py:gpt-short --optimizers adaptive-vsgd,adamw,benchmarks/controls.py

They are given to the lab as a file. The schedule of the gain is 0.4, 0.15 and 0.05 at the start, the middle and the end
of a run, on straight lines in the logarithm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

import varigrad
from varigrad.lab.optimizers import NORMALISED, OptimizerRow


def by_hand(fraction: float) -> float:
    """The gain after a fraction of the run."""
    low, high, share = (0.4, 0.15, 2 * fraction) if fraction < 0.5 else (0.15, 0.05, 2 * fraction - 1)
    return float(low * (high / low) ** min(share, 1.0))


class GainByHand(varigrad.AdaptiveVSGD):
    """AdaptiveVSGD with all gains at what the schedule says.

    Args:
        params: As of AdaptiveVSGD.
        lr: As of AdaptiveVSGD.
        weight_decay: As of AdaptiveVSGD.
        steps: Length of the run.
    """

    def __init__(self, params, lr=3e-3, weight_decay=0.0, *, steps: int) -> None:
        self.steps = steps
        super().__init__(params, lr, weight_decay)

    def scalars(self, step, group, memory):
        gain = torch.full_like(memory["gain"], by_hand((step - 1) / self.steps))
        return super().scalars(step, group, memory) | {"gain": gain, "weight": torch.clamp(gain, min=1.0 / step)}


class MomentumByHand(torch.optim.AdamW):
    """AdamW with 1 - β₁ at what the schedule says.

    Args:
        params: As of AdamW.
        lr: As of AdamW.
        weight_decay: As of AdamW.
        steps: Length of the run.
    """

    def __init__(self, params, lr=1e-3, weight_decay=0.01, *, steps: int) -> None:
        self.steps = steps
        super().__init__(params, lr, weight_decay=weight_decay)

    def step(self, closure=None):
        done = int(next(iter(self.state.values()))["step"]) if self.state else 0
        for group in self.param_groups:
            group["betas"] = (1 - by_hand(done / self.steps), group["betas"][1])
        return super().step(closure)


def length(lr: float, batch_size: int, steps: int) -> Mapping[str, Any]:
    """What the two must know of a run."""
    return {"steps": steps}


ROWS = [
    OptimizerRow(
        "adaptive-nesterov",
        varigrad.AdaptiveVSGD,
        "AdaptiveVSGD that looks one step ahead",
        "this library",
        NORMALISED,
        {"nesterov": True},
    ),
    OptimizerRow(
        "gain-by-hand", GainByHand, "AdaptiveVSGD, its gain set by hand", "a control", NORMALISED, derived=length
    ),
    OptimizerRow(
        "momentum-by-hand", MomentumByHand, "AdamW, its momentum set by hand", "a control", NORMALISED, derived=length
    ),
]
