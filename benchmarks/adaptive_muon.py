"""Muon with one of the two changes that AdaptiveMuon makes: a momentum learned, or every weight weighed by its noise.

    varigrad tune --task benchmarks/short_tasks.py:gpt-short --optimizers muon,benchmarks/adaptive_muon.py

It is given to the lab as a file. The matrices are those of the lab's `muon`; all else is stepped by AdaptiveVSGD, also
in the row `muon-fixed`, whose matrices have Muon's momentum of 0.95; and by AdamW in `muon-learned-adamw`. The row
`muon-weighed` is AdaptiveMuon with Muon's momentum for every tensor.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import varigrad
from varigrad.lab.muon import rows
from varigrad.lab.optimizers import NORMALISED, OptimizerRow
from varigrad.matrices import inner_matrices

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024


def orthogonalised(matrix: Tensor) -> Tensor:
    """The nearest matrix with singular values of about 1, by five Newton-Schulz iterations (Jordan et al. 2024)."""
    a, b, c = COEFFICIENTS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-30)
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class AdaptiveMuon(torch.optim.Optimizer):
    """Orthogonalised momentum with a gain for each matrix, learned from the signs of successive innovations.

    Args:
        model: The network.
        lr: Learning rate; a step's root mean square is 0.2 of it, as AdamW's is (Liu et al. 2025, Eq. 4).
        weight_decay: Decoupled weight decay.
        gain: The gain of the first step.
        rate: How far the logit of the gain moves in one step if all signs agree; 0 for a gain that stays.
        target: The mean product of successive signs that is aimed at: above 0 for a longer memory.
        rest: Who steps what is no inner matrix: `"adaptive-vsgd"`, or `"adamw"`, as beside the lab's `muon`.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        *,
        gain: float = 0.5,
        rate: float = 0.3,
        target: float = 0.0,
        rest: str = "adaptive-vsgd",
    ) -> None:
        matrices = inner_matrices(model)
        inner = {id(matrix) for matrix in matrices}
        others = [p for p in model.parameters() if id(p) not in inner]
        kind = torch.optim.AdamW if rest == "adamw" else varigrad.AdaptiveVSGD
        self._rest = kind(others, lr=lr, weight_decay=weight_decay)
        settings = {"gain": gain, "rate": rate, "target": target}
        super().__init__(
            [{"params": matrices}, {"params": others, **self._rest.defaults}],
            {"lr": lr, "weight_decay": weight_decay, **settings},
        )
        self._share()

    def _share(self) -> None:
        self._rest.param_groups[0] = self.param_groups[1]
        self._rest.state = self.state

    def load_state_dict(self, state_dict) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups[:1]:
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, group)
        self._rest.step()

    def _step(self, p: Tensor, group: dict) -> None:
        state = self.state[p]
        if not state:
            state.update(step=0, mean=torch.zeros_like(p), sign=torch.zeros_like(p), gain=group["gain"])
        state["step"] += 1
        weight = max(state["gain"], 1 / state["step"]) if group["rate"] else state["gain"]
        innovation = p.grad - state["mean"]
        state["mean"].add_(innovation, alpha=weight)
        ahead = rows(state["mean"] + weight * (p.grad - state["mean"]), like=p)  # Nesterov's, as Muon's
        step = orthogonalised(ahead) * (0.2 * math.sqrt(max(ahead.shape)))
        p.mul_(1 - group["lr"] * group["weight_decay"])
        rows(p).sub_(step, alpha=group["lr"])
        sign = innovation.sign()
        if state["step"] > 2 and group["rate"]:
            agreement = (sign * state["sign"]).mean().item() - group["target"]
            odds = state["gain"] / (1 - state["gain"]) * math.exp(group["rate"] * agreement)
            state["gain"] = min(max(odds / (1 + odds), 0.005), 0.9)
        state["sign"] = sign


class Weighed(varigrad.AdaptiveMuon):
    """AdaptiveMuon whose gain is not learned: Muon's."""

    start_gain = 0.05
    gain_rate = 0.0


def row(name: str, summary: str, kind: type[torch.optim.Optimizer] = AdaptiveMuon, **arguments) -> OptimizerRow:
    """A row of the lab."""
    return OptimizerRow(name, kind, summary, "a study", NORMALISED, arguments, takes_model=True)


ROWS = [
    row("muon-learned", "Muon with a learned gain for each matrix", target=0.0),
    row("muon-learned-adamw", "the same, all else by AdamW", rest="adamw"),
    row("muon-learned-long", "the same, aiming at signs that agree a little", target=0.1),
    row("muon-learned-longer", "the same, aiming at signs that agree more", target=0.2),
    row("muon-weighed", "Muon's own momentum, weights weighed by their noise", Weighed),
    row("muon-fixed", "Muon's own momentum, all else by AdaptiveVSGD", gain=0.05, rate=0.0),
]
