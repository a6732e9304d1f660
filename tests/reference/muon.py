"""Oracle for AdaptiveMuon: Muon (Jordan et al. 2024) along AdaptiveVSGD's learned mean, in units of its noise.

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
    """A matrix along its orthogonalised direction; a vector, and all if not `matrices`, along the direction itself."""
    walk = Walk(theta, gradients, lr, weight_decay)
    is_matrix = matrices and walk.theta.ndim > 1
    for eta, u, S in learned(walk, nesterov and is_matrix, {}):
        z = divide(u, np.sqrt(u**2 + S))
        if is_matrix:
            flat = z.reshape(len(z), -1).astype(np.float64)
            z = 0.2 * np.sqrt(max(flat.shape)) * orthogonalised(flat).reshape(z.shape)
        walk.subtract(eta * z)
    return walk.trajectory


def orthogonalised(matrix: np.ndarray) -> np.ndarray:
    """Five times the polynomial of the singular values, which are divided by the root of the sum of their squares."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.sqrt((values**2).sum()) if values.any() else values
    for _ in range(5):
        values = A * values + B * values**3 + C * values**5
    return left * values @ right
