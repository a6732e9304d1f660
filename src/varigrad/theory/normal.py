"""The two signs of a correlated pair of Gaussian variables."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from .arguments import ANY, Number, Range, as_float64, like

__all__ = ["expected_sign_product"]

CORRELATION = Range(-1.0, 1.0)
BEYOND_DOUBT = 40.0  # standard deviations; the Gaussian tail behind them is below the smallest float64
QUADRATURE_NODES = 24


def expected_sign_product(first: Number, second: Number | float, correlation: Number | float) -> Number:
    """Expectation of the product of the signs of two jointly Gaussian variables.

    With x ~ N(h, 1), y ~ N(k, 1) of correlation r, and Owen's function T(h, a) = ∫₀ᵃ exp(-h²(1+x²)/2)/(1+x²) dx / 2π:

        E[sign x sign y] = 4 P[x > 0, y > 0] - 2 Φ(h) - 2 Φ(k) + 1
                         = s - 4 T(h, (k - r h)/(h √(1-r²))) - 4 T(k, (h - r k)/(k √(1-r²)))

    where s = 1 if h and k are on the same side of 0, else -1. For h = k = 0 it is (2/π) asin r. T is integrated
    numerically, to an error below 1e-14.

    Args:
        first: h, mean of the first variable over its standard deviation, in [-∞, ∞].
        second: k, the same of the second variable.
        correlation: r, in [-1, 1].

    Returns:
        The expectation, in [-1, 1].

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        What Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients bounds by 1 in
        Eq. 32. The reduction of the bivariate normal probability to T is Owen's.

    Example:
        >>> from varigrad.theory import expected_sign_product
        >>> round(expected_sign_product(0.0, 0.0, 0.5), 6)
        0.333333
        >>> round(expected_sign_product(1.0, -2.0, 0.0), 6)  # independent: the product of the two expectations
        -0.651627
    """
    h = as_float64("first", first, ANY).clamp(-BEYOND_DOUBT, BEYOND_DOUBT)
    k = as_float64("second", second, ANY).clamp(-BEYOND_DOUBT, BEYOND_DOUBT)
    r = as_float64("correlation", correlation, CORRELATION)
    same_side = 2 * ((h >= 0) == (k >= 0)).to(torch.float64) - 1
    product = same_side - 4 * _wedge(h, k, r) - 4 * _wedge(k, h, r)
    return like(torch.where((h == 0) & (k == 0), 2 / math.pi * torch.asin(r), product), first, second, correlation)


def _wedge(h: Tensor, k: Tensor, r: Tensor) -> Tensor:
    """Returns T(h, (k - r h)/(h √(1-r²))), reading 0/0 as 0: x and y are then one variable, and bound nothing."""
    side = torch.ones_like(r).copysign(r)
    distance = (k - side * h) + (side - r) * h  # k - r h, without the cancellation where r is near ±1
    height = (distance / torch.sqrt((1 - r) * (1 + r))).nan_to_num(nan=0.0).clamp(-BEYOND_DOUBT, BEYOND_DOUBT)
    height = torch.where(h >= 0, height, -height)
    return height.sign() * _owen(h.abs(), height.abs())


def _owen(h: Tensor, height: Tensor) -> Tensor:
    """Returns T(h, height/h) for h, height ≥ 0: the standard Gaussian mass of x > h, 0 < y < x height/h.

    Where that wedge is steeper than 45°, the other one at the corner (h, height) is integrated instead, so that the
    integrand is smooth over [0, 1]: the two wedges and the quadrant beyond the corner add up to known masses.
    """
    steep = height > h
    base, rise = torch.where(steep, height, h), torch.where(steep, h, height)
    slope = rise / base
    gentle = torch.zeros_like(base)
    for node, weight in _gauss_legendre(QUADRATURE_NODES):
        secant2 = 1 + (node * slope) ** 2
        gentle += weight * torch.exp(-0.5 * base * base * secant2) / secant2
    gentle *= slope / (2 * math.pi)
    beyond, above = _upper_tail(h), _upper_tail(height)
    return torch.where(steep, 0.5 * (beyond + above) - beyond * above - gentle, gentle)


def _upper_tail(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(x / math.sqrt(2))


@functools.cache
def _gauss_legendre(count: int) -> tuple[tuple[float, float], ...]:
    """Returns nodes and weights of Gauss-Legendre quadrature on [0, 1], from its Jacobi matrix."""
    index = torch.arange(1, count, dtype=torch.float64, device="cpu")
    off_diagonal = index / torch.sqrt(4 * index * index - 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    return tuple(zip(((1 + nodes) / 2).tolist(), vectors[0].square().tolist(), strict=True))
