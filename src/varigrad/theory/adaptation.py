"""How far to trust a noisy gradient, or its sign, as a function of its relative noise η = σ/|mean|."""

from __future__ import annotations

import math

import torch

from .arguments import EXTENDED, FINITE, NONNEGATIVE, Number, as_float64, like

__all__ = [
    "adam_adaptation_factor",
    "sign_adaptation_factor",
    "sign_success_probability",
    "svag_adaptation_factor",
]


def sign_success_probability(mean: Number, std: Number | float) -> Number:
    """Probability that a Gaussian stochastic gradient has the sign of its mean.

        P[sign(g) = sign(mean)] = ½ + ½ erf(|mean| / (√2 std)),   g ~ N(mean, std²)

    Args:
        mean: The true gradient, in (-∞, ∞). At 0 there is no sign to find, and the result is ½.
        std: Standard deviation of the stochastic gradient, in the unit of `mean`, in [0, ∞).

    Returns:
        The probability, in [½, 1].

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Eq. 10, Lemma 4.

    Example:
        >>> from varigrad.theory import sign_success_probability
        >>> round(sign_success_probability(1.0, 1.0), 4)
        0.8413
    """
    mu, sigma = as_float64("mean", mean, FINITE), as_float64("std", std, NONNEGATIVE)
    ratio = torch.where(mu == 0, 0.0, mu.abs() / sigma)
    return like(0.5 + 0.5 * torch.erf(ratio / math.sqrt(2)), mean, std)


def sign_adaptation_factor(relative_noise: Number) -> Number:
    """Best factor on the sign of a Gaussian stochastic gradient.

    It minimises E[(γ sign(g) - sign(mean))²], and is twice the success probability of the sign minus 1:

        γ = erf(1 / (√2 η)),   η = std / |mean|

    Appendix C.2 prints this as erf[(√(2η))⁻¹], with the η under the root; Section 3.1 has it right. For a moving
    average of gradients, pass η √`moving_average_variance`.

    Args:
        relative_noise: η, standard deviation of the gradient over the absolute value of its mean; in [0, ∞].

    Returns:
        The factor, in [0, 1]: 1 for an exact gradient, 0 for pure noise.

    Raises:
        ValueError: If the argument is out of its range.

    Reference:
        Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Eq. 10 and 16,
        Section 3.1.

    Example:
        >>> from varigrad.theory import sign_adaptation_factor
        >>> round(sign_adaptation_factor(1.0), 4)
        0.6827
    """
    eta = as_float64("relative_noise", relative_noise, EXTENDED)
    return like(torch.erf(1 / (math.sqrt(2) * eta)), relative_noise)


def adam_adaptation_factor(relative_noise: Number) -> Number:
    """Factor on the sign that Adam applies in effect, close to the best one.

        γ = (1 + η²)^-½,   η = std / |mean|

    Appendix C.2 prints (1 + η)^-½, without the square; Eq. 8 has it right. It differs from
    `sign_adaptation_factor` by at most 0.065, at η = 1.9, and for η → ∞ is √(π/2) times as large.

    Args:
        relative_noise: η, standard deviation of the gradient over the absolute value of its mean; in [0, ∞].

    Returns:
        The factor, in [0, 1].

    Raises:
        ValueError: If the argument is out of its range.

    Reference:
        Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Eq. 8, Figure 3.

    Example:
        >>> from varigrad.theory import adam_adaptation_factor
        >>> round(adam_adaptation_factor(1.0), 4)
        0.7071
    """
    eta = as_float64("relative_noise", relative_noise, EXTENDED)
    return like(1 / torch.hypot(torch.ones_like(eta), eta), relative_noise)


def svag_adaptation_factor(relative_noise: Number) -> Number:
    """Best factor on a stochastic gradient itself, the one of SVAG.

    It minimises E[(γ g - mean)²] whatever the distribution of g:

        γ = 1 / (1 + η²),   η = std / |mean|

    M-SVAG's factor (Eq. 24) is the same at the relative noise of the moving average, η √`moving_average_variance`.

    Args:
        relative_noise: η, standard deviation of the gradient over the absolute value of its mean; in [0, ∞].

    Returns:
        The factor, in [0, 1]: 1 for an exact gradient, 0 for pure noise.

    Raises:
        ValueError: If the argument is out of its range.

    Reference:
        Balles, Hennig: Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients. Eq. 15 and 17.

    Example:
        >>> import torch
        >>> from varigrad.theory import svag_adaptation_factor
        >>> svag_adaptation_factor(torch.tensor([0.5, 1.5]))
        tensor([0.8000, 0.3077], dtype=torch.float64)
    """
    eta = as_float64("relative_noise", relative_noise, EXTENDED)
    return like(1 / (1 + eta * eta), relative_noise)
