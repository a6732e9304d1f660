"""Muon as it is meant to be used: for the inner matrices of a network, beside AdamW for everything else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon

from varigrad.matrices import inner_matrices

__all__ = ["MuonAndAdamW"]


class MuonAndAdamW(torch.optim.Optimizer):
    """torch's Muon for the matrices inside a network, torch's AdamW for all other parameters, at one learning rate.

    Muon's steps are scaled so that their root mean square is that of AdamW's (Liu et al. 2025, Eq. 4): one rate then
    fits both. The matrices are the weights of all `nn.Linear` but the output layer's, those of recurrent layers, the
    projections of attention, and the kernels of all convolutions but the first, as matrices with a row for each output
    channel (Jordan et al. 2024). The output layer, embeddings, kernels in groups, biases and normalisations are
    AdamW's.

    Args:
        model: The network, on its device: the kernels' memory is shared.
        lr: Learning rate, at least 0.
        weight_decay: Decoupled weight decay, at least 0.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> [len(group["params"]) for group in MuonAndAdamW(model, lr=1e-3).param_groups]
        [1, 3]
    """

    def __init__(self, model: nn.Module, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        inner = inner_matrices(model)
        # torch's Muon takes two dimensions only: it gets a parameter of its own in the kernel's memory.
        self._kernels = [(p, nn.Parameter(rows(p.detach()))) for p in inner if p.dim() > 2]
        matrices = [p for p in inner if p.dim() == 2] + [matrix for _, matrix in self._kernels]
        known = {id(p) for p in inner}
        others = [p for p in model.parameters() if id(p) not in known]
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

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, those of the kernels too."""
        super().zero_grad(set_to_none)
        for kernel, _ in self._kernels:
            if set_to_none:
                kernel.grad = None
            elif kernel.grad is not None:
                kernel.grad.zero_()

    def step(self, closure: Any = None) -> Any:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for kernel, matrix in self._kernels:
            matrix.grad = None if kernel.grad is None else rows(kernel.grad, like=kernel)
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


def rows(kernel: Tensor, like: Tensor | None = None) -> Tensor:
    """A kernel as a matrix with a row for each output channel; a view of the kernel if `like` is None.

    Its columns have the order of memory of `like`, else of its own: it changes nothing about the singular values.
    """
    order = sorted(range(1, kernel.dim()), key=(kernel if like is None else like).stride, reverse=True)
    permuted = kernel.permute(0, *order)
    return permuted.view(len(kernel), -1) if like is None else permuted.reshape(len(kernel), -1)
