"""Oracle for AdaptiveMuon: Muon (Jordan et al. 2024) along a mean whose gain is learned, in units of its noise.

No paper has the gain. Symbols as in `adaptive.py`, but that what is kept of an innovation is whether it was above tau
standard deviations, b = 1, or not, b = -1, where tau goes through the 16 numbers -3.75, -3.25, ..., 3.75; and what the
gain is learned from is c, 4 times the mean of x_t b_{t-1} over that of x_t^2, with x = e / sqrt(S) cut off at -4 and 4.

The polynomial p(s) = a s + b s^3 + c s^5 is applied to the singular values themselves, five times, where the library
multiplies matrices. The factor 0.2 sqrt(max(rows, columns)) is that of Liu et al. 2025, Eq. 4.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from .walk import Gradients, Rates, Real, Walk, divide

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
    for eta, u, S in learned(walk, nesterov and is_matrix):
        z = divide(u, np.sqrt(u**2 + S))
        if is_matrix:
            flat = z.reshape(len(z), -1).astype(np.float64)
            z = 0.2 * np.sqrt(max(flat.shape)) * orthogonalised(flat).reshape(z.shape)
        walk.subtract(eta * z)
    return walk.trajectory


def learned(walk: Walk, nesterov: bool) -> Iterator[tuple[np.longdouble, np.ndarray, np.ndarray]]:
    """The learning rate, the direction u and the variance S of the noise, step by step."""
    m, S = np.zeros_like(walk.theta), np.zeros_like(walk.theta)
    b = np.ones(walk.theta.shape, dtype=int)
    ell, c = Real(0), Real(0)
    lowest, highest = (np.log(Real(w)) - np.log1p(-Real(w)) for w in (0.005, 0.9))
    for t, g, eta in walk:
        ell = min(max(ell + Real(0.1) * c, lowest), highest)
        w = max(1 / (1 + np.exp(-ell)), 1 / Real(t))
        e = g - m
        counted = (g != 0) & (S > 0)
        x = np.clip(e[counted] / np.sqrt(S[counted]), -4, 4)
        energy = (x**2).sum()
        c = np.clip((4 * (x * b[counted]).sum() + Real(0.05) * energy) / (energy + 10 * 4**2), -1, 1)
        m = m + w * e
        if t > 1:
            r = max(1 / Real(t - 1), Real(1e-3))
            S = (1 - r) * S + r * (1 - w) * e**2
        tau = Real(7 * t % 16) / 2 - Real(3.75)
        b = np.where(g == 0, b, np.where(e < tau * np.sqrt(S), -1, 1))
        yield eta, m + w * (g - m) if nesterov else m, S


def orthogonalised(matrix: np.ndarray) -> np.ndarray:
    """Five times the polynomial of the singular values, which are divided by the root of the sum of their squares."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.sqrt((values**2).sum()) if values.any() else values
    for _ in range(5):
        values = A * values + B * values**3 + C * values**5
    return left * values @ right
