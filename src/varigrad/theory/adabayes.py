"""Where AdaBayes' posterior variance, its learning rate per weight, comes to rest."""

from __future__ import annotations

import math

import torch

from .arguments import NONNEGATIVE, POSITIVE, Number, Range, as_float64, like

__all__ = ["adabayes_fixed_point", "adabayes_fp_variance"]

PRIOR_VARIANCE = Range(0.0, math.inf, open_low=True)


def adabayes_fixed_point(
    squared_gradient: Number, lr: Number | float, prior_variance: Number | float, transition: str = "exact"
) -> Number:
    """Posterior variance at which AdaBayes rests under a constant squared gradient.

    The fixed point of Eq. 17b and 18a, P = 1/(1/(q P + n) + g²), is the positive root of

        q g² P² + (1 - q + n g²) P - n = 0

        q = exp(-η²/σ²),      n = σ² (1-q)      transition="exact"
        q = (1 - η²/2σ²)²,    n = η²            transition="euler"

    Without a gradient it is σ² ("exact"), the SGD limit, or σ²/(1 - η²/4σ²) ("euler"). For σ² → ∞ and small η|g| it
    is η/|g|, the Adam limit, and for large η|g| it is 1/g²: the paper's Eq. 24, which has the Adam limit for every
    large g², holds for AdaBayes-FP only.

    Args:
        squared_gradient: g², square of the gradient of the summed loss (batch size times the mean's), in [0, ∞).
        lr: η, Adam's learning rate, in (0, ∞).
        prior_variance: σ² = SGD's learning rate over the batch size (Eq. 23), in (0, ∞]; for "euler" above η²/4, below
            which Eq. 17b has no fixed point.
        transition: "exact" for the Ornstein-Uhlenbeck transition, "euler" for Eq. 17b as printed.

    Returns:
        The posterior variance σ_post² = P, in (0, ∞].

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Aitchison: Bayesian filtering unifies adaptive and non-adaptive neural network optimization methods. Eq. 17b
        and 18a, Appendix D.

    Example:
        >>> from varigrad.theory import adabayes_fixed_point
        >>> round(adabayes_fixed_point(0.0, lr=1e-3, prior_variance=0.1 / 128) * 128, 6)  # SGD's learning rate
        0.1
        >>> round(adabayes_fixed_point(100.0**2, lr=1e-3, prior_variance=0.1) / (1e-3 / 100.0), 4)  # next to Adam's
        0.9512
    """
    g2 = as_float64("squared_gradient", squared_gradient, NONNEGATIVE)
    eta = as_float64("lr", lr, POSITIVE)
    sigma2 = as_float64("prior_variance", prior_variance, PRIOR_VARIANCE)
    rate = eta * eta / sigma2
    if transition == "exact":
        lost = -torch.expm1(-rate)
        noise = eta * eta * torch.where(rate == 0, 1.0, lost / rate)
        kept = torch.exp(-rate)
    elif transition == "euler":
        if not (rate < 4).all():
            raise ValueError(
                f"prior_variance = {prior_variance!r} is not accepted with lr = {lr!r}: it must be above lr²/4"
            )
        lost = rate * (1 - rate / 4)
        noise = eta * eta
        kept = (1 - rate / 2) ** 2
    else:
        raise ValueError(f"transition = {transition!r} is not accepted: it must be 'exact' or 'euler'")
    damping = lost + noise * g2
    variance = 2 * noise / (damping + torch.hypot(damping, 2 * torch.sqrt(kept * noise * g2)))
    return like(variance, squared_gradient, lr, prior_variance)


def adabayes_fp_variance(squared_gradient: Number, lr: Number | float, prior_variance: Number | float) -> Number:
    """Approximate fixed point that AdaBayes-FP takes for the posterior variance.

        1/σ_post² = 1/(2σ²) + √(1/(4σ⁴) + ⟨g²⟩/η²)

    It is σ², the SGD limit, for small ⟨g²⟩ and η/√⟨g²⟩, the Adam limit, for large. It is within 5 % of the
    `adabayes_fixed_point` for η√⟨g²⟩ ≤ 0.1 only. Algorithm 2, line 11 prints the right side as σ_post² itself, and
    Eq. 27 prints η/√⟨g²⟩ as the limit of its inverse.

    Args:
        squared_gradient: ⟨g²⟩, averaged square of the gradient of the summed loss, in [0, ∞).
        lr: η, Adam's learning rate, in (0, ∞).
        prior_variance: σ² = SGD's learning rate over the batch size (Eq. 23), in (0, ∞].

    Returns:
        The posterior variance σ_post², in (0, ∞].

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Aitchison: Bayesian filtering unifies adaptive and non-adaptive neural network optimization methods. Eq. 21.

    Example:
        >>> from varigrad.theory import adabayes_fp_variance
        >>> round(adabayes_fp_variance(1.0, lr=1e-3, prior_variance=1e-3), 9)
        0.000618034
    """
    g2 = as_float64("squared_gradient", squared_gradient, NONNEGATIVE)
    eta = as_float64("lr", lr, POSITIVE)
    half_precision = 0.5 / as_float64("prior_variance", prior_variance, PRIOR_VARIANCE)
    precision = half_precision + torch.hypot(half_precision, torch.sqrt(g2) / eta)
    return like(1 / precision, squared_gradient, lr, prior_variance)
