"""Muon as it is meant to be used: for the inner matrices of a network, beside AdamW for everything else."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon


class MuonAndAdamW(torch.optim.Optimizer):
    """torch's Muon for the matrices inside a network, torch's AdamW for all other parameters, at one learning rate.

    Muon's steps are scaled so that their root mean square is that of AdamW's (Liu et al. 2025, Eq. 4): one rate then
    fits both. The matrices are the weights of all `nn.Linear` but the last; the output layer, embeddings,
    convolutions, biases and normalisations are AdamW's.

    Args:
        model: The network.
        lr: Learning rate, at least 0.
        weight_decay: Decoupled weight decay, at least 0.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> [len(group["params"]) for group in MuonAndAdamW(model, lr=1e-3).param_groups]
        [1, 3]
    """

    def __init__(self, model: nn.Module, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        linear = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
        inner = {id(weight) for weight in linear[:-1]}
        matrices = [p for p in model.parameters() if id(p) in inner]
        others = [p for p in model.parameters() if id(p) not in inner]
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
        if others:
            self._parts.append(AdamW(others, lr=lr, weight_decay=weight_decay))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """The groups and the states are those of the two: what is set here is set there."""
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        self.state.clear()
        for part in self._parts:
            self.state.update(part.state)

    def step(self, closure: Any = None) -> Any:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
            self.state.update(part.state)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state of both."""
        return {type(part).__name__: part.state_dict() for part in self._parts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of both."""
        for part in self._parts:
            part.load_state_dict(state_dict[type(part).__name__])
        self._share()
