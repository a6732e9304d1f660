"""What averaging does to gradient noise: over time with exponential weights, and over the samples of a mini-batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .arguments import FINITE, Number, Range, as_count, as_float64, as_number, like

__all__ = [
    "mean_variance_coefficient",
    "minibatch_gradient_variance",
    "moving_average_variance",
    "moving_average_weights",
]

BETA = Range(0.0, 1.0, open_high=True)
STEP = Range(1.0, math.inf, whole=True)


def moving_average_weights(beta: float, step: int) -> Tensor:
    """Weights of the gradients in a bias-corrected exponential moving average.

        m_k = Σ_s c_s g_s,   c_s = (1-β) β^(k-s) / (1-β^k),   s = 1, …, k

    The paper counts steps from 0, so that its exponents are one larger.

    Args:
        beta: Decay β of the average, in [0, 1).
        step: k, how many gradients it has seen, a whole number ≥ 1.

    Returns:
        The weights, oldest first, a float64 tensor of shape (step,) that sums to 1.

    Raises:
        TypeError: If `step` is not an integer.
        ValueError: If an argument is out of its range.

    Reference:
        Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Eq. 57.

    Example:
        >>> from varigrad.theory import moving_average_weights
        >>> moving_average_weights(0.5, 3) * 7
        tensor([1., 2., 4.], dtype=torch.float64)
    """
    decay, count = as_number("beta", beta, BETA), as_count("step", step)
    weights: Tensor = decay ** torch.arange(count - 1, -1, -1, dtype=torch.float64)
    return weights / weights.sum()


def moving_average_variance(beta: Number, step: Number | float = math.inf) -> Number:
    """Variance of a bias-corrected exponential moving average, for independent gradients of variance 1.

        ρ(β, k) = Σ_s c_s² = (1-β)(1+β^k) / ((1+β)(1-β^k)),   ρ(β, 1) = 1,   ρ(β, ∞) = (1-β)/(1+β)

    where c are the `moving_average_weights`. Its inverse is the effective number of gradients in the average; v - m²
    underestimates the gradient variance by the factor 1 - ρ. The paper counts steps from 0, so that its exponents
    are one larger, and prints ρ = 0 for the first step (Section 4.4), where ρ is 1.

    Args:
        beta: Decay β of the average, in [0, 1).
        step: k, how many gradients it has seen, a whole number in [1, ∞].

    Returns:
        The variance, in (0, 1].

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Eq. 20, 21, 60, 61.

    Example:
        >>> from varigrad.theory import moving_average_variance
        >>> [round(moving_average_variance(0.9, step), 4) for step in (1, 2, 10, 100)]
        [1.0, 0.5014, 0.109, 0.0526]
        >>> round(moving_average_variance(0.9), 4)
        0.0526
    """
    decay, count = as_float64("beta", beta, BETA), as_float64("step", step, STEP)
    lost = _one_minus_power(decay, count)
    variance = (1 - decay) * (2 - lost) / ((1 + decay) * lost)
    return like(torch.where(count == 1, 1.0, variance), beta, step)


def mean_variance_coefficient(beta: Number, step: Number | float = math.inf) -> Number:
    """Coefficient that turns the moving variance v - m² into the variance of the moving average m.

        c_k = ρ/(1-ρ) = (1-β)(1+β^k) / (2β(1-β^(k-1))),   c_∞ = (1-β)/(2β)

    where ρ is the `moving_average_variance`: an estimate of var[m] is ρ s = c_k (v - m²) with s of Eq. 22, and
    M-SVAG's factor is 1/(1 + c_k (v - m²)/m²). The right-hand form does not subtract ρ from 1.

    Args:
        beta: Decay β of both averages, in [0, 1).
        step: k, how many gradients they have seen, a whole number in [1, ∞].

    Returns:
        The coefficient, in (0, ∞]. It is infinite for k = 1 and for β = 0, where a single gradient is in the average
        and v - m² = 0 says nothing; the optimizers then take the variance as 0.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Eq. 21, 22 and 25.

    Example:
        >>> from varigrad.theory import mean_variance_coefficient
        >>> round(1 / mean_variance_coefficient(0.9), 6)
        18.0
    """
    decay, count = as_float64("beta", beta, BETA), as_float64("step", step, STEP)
    single = count == 1
    lost, lost_before = _one_minus_power(decay, count), _one_minus_power(decay, torch.where(single, 1.0, count - 1))
    return like(torch.where(single, math.inf, (1 - decay) * (2 - lost) / (2 * decay * lost_before)), beta, step)


def minibatch_gradient_variance(sample_gradients: Tensor) -> Tensor:
    """Unbiased estimate of the variance of a mini-batch gradient from its own samples.

        s = Σ_k (g_k - ḡ)² / (M (M-1)),   ḡ = Σ_k g_k / M

    Eq. 64 prints (Σ g_k² / (M-1) - ḡ²) / M, which is called unbiased but is E[ḡ²]/(M (M-1)) too large: it subtracts
    ḡ² once where it takes M/(M-1) of it.

    Args:
        sample_gradients: Gradients of M ≥ 2 samples, of shape (M, …); finite.

    Returns:
        The variance of their mean, a float64 tensor of the shape of one gradient.

    Raises:
        ValueError: If there are fewer than two samples, or an entry is not finite.

    Reference:
        Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Appendix D, Eq. 64.

    Example:
        >>> import torch
        >>> from varigrad.theory import minibatch_gradient_variance
        >>> minibatch_gradient_variance(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        tensor([1., 0.], dtype=torch.float64)
    """
    samples = as_float64("sample_gradients", sample_gradients, FINITE)
    if samples.dim() == 0 or len(samples) < 2:
        raise ValueError(
            f"sample_gradients has shape {tuple(samples.shape)}, which is not accepted: it must be (M, …) with M ≥ 2"
        )
    return samples.var(dim=0, correction=1) / len(samples)


def _one_minus_power(beta: Tensor, exponent: Tensor) -> Tensor:
    """Returns 1 - β^exponent for an exponent ≥ 1, without the cancellation where β is near 1."""
    return -torch.expm1(exponent * torch.log(beta))
