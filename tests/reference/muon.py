"""Oracle for AdaptiveMuon: Muon (Jordan et al. 2024) whose momentum is AdaptiveVSGD's learned mean.

The polynomial p(s) = a s + b s^3 + c s^5 is applied to the singular values themselves, five times, where the library
multiplies matrices. The factor 0.2 sqrt(max(rows, columns)) is that of Liu et al. 2025, Eq. 4.
"""

import numpy as np
from numpy.typing import ArrayLike

from .adaptive import learned
from .walk import Gradients, Rates, Walk, divide

A, B, C = 3.4445, -4.7750, 2.0315


def adaptive_muon(
    theta: ArrayLike,
    gradients: Gradients,
    lr: Rates,
    *,
    nesterov: bool = True,
    matrices: bool = True,
    weight_decay: float = 0.0,
) -> np.ndarray:
    """Matrices along their orthogonalised direction; vectors, and all if not `matrices`, as AdaptiveVSGD, by 0.3."""
    walk = Walk(theta, gradients, lr, weight_decay)
    for eta, u, spread in learned(walk, nesterov, {}):
        if matrices and u.ndim > 1:
            flat = u.reshape(len(u), -1).astype(np.float64)
            walk.subtract(eta * 0.2 * np.sqrt(max(flat.shape)) * orthogonalised(flat).reshape(u.shape))
        else:
            walk.subtract(eta * 0.3 * divide(u, np.sqrt(u**2 + spread)))
    return walk.trajectory


def orthogonalised(matrix: np.ndarray) -> np.ndarray:
    """Five times the polynomial of the singular values, which are divided by the root of the sum of their squares."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.sqrt((values**2).sum()) if values.any() else values
    for _ in range(5):
        values = A * values + B * values**3 + C * values**5
    return left * values @ right
