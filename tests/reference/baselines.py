"""The optimizers that the papers' methods turn into in some limit, as those papers define them."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .walk import Gradients, Rates, Real, Walk, divide


def adamw(
    theta: ArrayLike,
    gradients: Gradients,
    lr: Rates,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    eps_inside: bool = False,
    weight_decay: float = 0.0,
) -> np.ndarray:
    """Adam (Eq. 39-43 of the VSGD paper) with decoupled weight decay; eps is added outside or inside the root."""
    walk = Walk(theta, gradients, lr, weight_decay)
    beta_1, beta_2 = (Real(beta) for beta in betas)
    m = np.zeros_like(walk.theta)
    v = np.zeros_like(walk.theta)
    for t, g, eta in walk:
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g**2
        m_tilde = m / (1 - beta_1**t)
        v_tilde = v / (1 - beta_2**t)
        root = np.sqrt(v_tilde + Real(eps)) if eps_inside else np.sqrt(v_tilde) + Real(eps)
        walk.subtract(eta * divide(m_tilde, root))
    return walk.trajectory


def sgdm(
    theta: ArrayLike, gradients: Gradients, lr: Rates, *, momentum: float = 0.9, weight_decay: float = 0.0
) -> np.ndarray:
    """Eq. 48 and 49 of the VSGD paper; momentum=0 is SGD (Eq. 1)."""
    walk = Walk(theta, gradients, lr, weight_decay)
    v = np.zeros_like(walk.theta)
    for _, g, eta in walk:
        v = Real(momentum) * v + eta * g
        walk.subtract(v)
    return walk.trajectory


def normalized_sgd(
    theta: ArrayLike,
    gradients: Gradients,
    lr: Rates,
    *,
    norm: Literal["element", "global"] = "element",
    weight_decay: float = 0.0,
) -> np.ndarray:
    """Eq. 25 of the VSGD paper, where each element has its own norm; "global": one norm for the whole array."""
    walk = Walk(theta, gradients, lr, weight_decay)
    for _, g, eta in walk:
        length = np.sqrt(g**2 if norm == "element" else (g**2).sum())
        walk.subtract(eta * divide(g, length))
    return walk.trajectory
