"""Jobs that torch's Adam has trained, their conversion, and averages by their definitions in float64."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import varigrad

SIZE, LR = 40, 1e-2


def stream(steps: int = 30, size: int = SIZE, seed: int = 0, mean: float = 1.0, deviation: float = 3.0) -> np.ndarray:
    """Gradients with a mean of their own for every weight, (steps, size), float64."""
    generator = np.random.default_rng(seed)
    return mean * generator.normal(size=size) + deviation * generator.normal(size=(steps, size))


def adam(
    gradients: np.ndarray, kind: Any = torch.optim.AdamW, dtype: torch.dtype = torch.float64, **arguments: Any
) -> tuple[torch.optim.Optimizer, Tensor]:
    """torch's Adam after these gradients, and its parameter."""
    param = torch.zeros(gradients.shape[1:], dtype=dtype, requires_grad=True)
    optimizer = kind([param], **{"lr": LR, "eps": 0.0, **arguments})
    advance(optimizer, param, gradients)
    return optimizer, param


def advance(optimizer: torch.optim.Optimizer, param: Tensor, gradients: Iterable[Any]) -> None:
    for gradient in gradients:
        param.grad = torch.as_tensor(gradient).to(param.dtype)
        optimizer.step()


def average(values: np.ndarray, beta: float) -> np.ndarray:
    """The debiased moving average by its definition: weights β^(t-k), which sum up to (1-β^t) / (1-β)."""
    weights = beta ** np.arange(len(values) - 1, -1, -1.0)
    return np.tensordot(weights / weights.sum(), values, 1)


def rho(beta: float, t: int) -> float:
    """Eq. 21 of "Dissecting Adam" by its definition: the sum of the squared weights of the average."""
    weights = beta ** np.arange(t, dtype=float)
    return ((weights / weights.sum()) ** 2).sum()


def converted(optimizer: torch.optim.Optimizer, to: Any = "vsgd", **arguments: Any) -> dict[str, Any]:
    return varigrad.convert_state(optimizer.state_dict(), to, **arguments)


def state_of(optimizer: torch.optim.Optimizer, to: Any = "vsgd", **arguments: Any) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in converted(optimizer, to, **arguments)["state"][0].items()}


def loaded(state_dict: dict[str, Any], kind: Any, *params: Tensor) -> tuple[torch.optim.Optimizer, list[Tensor]]:
    """A fresh optimizer that has loaded the state, and its parameters."""
    twins = [param.detach().clone().requires_grad_() for param in params]
    optimizer = kind(twins)
    optimizer.load_state_dict(state_dict)
    return optimizer, twins


def close(ours: Any, exact: Any, rtol: float = 1e-12) -> None:
    np.testing.assert_allclose(ours, exact, rtol=rtol, atol=0)
