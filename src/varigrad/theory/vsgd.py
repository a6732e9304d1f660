"""Where VSGD's belief about the gradient comes to rest, and how to read it."""

from __future__ import annotations

import torch

from .arguments import NONNEGATIVE, POSITIVE, Number, Range, as_float64, like

__all__ = ["calibrated_observation_variance", "vsgd_stationary_variances", "vsgd_variance_floor"]

GAIN = Range(0.0, 1.0)


def vsgd_variance_floor(prior_strength: Number, variance_ratio: Number | float, shape_offset: Number | float) -> Number:
    """Posterior variance σ² that VSGD approaches while all gradients are 0.

    The fixed point of Eq. 16 to 21 with ĝ = μ = 0 is the positive root of

        (a - ¼) σ⁴ + γ (1 + K) (a - ½) σ² - K γ² = 0,   a = ½ + γ + δ

    computed as σ² = 2Kγ / (b + √(b² + 4K(a - ¼))) with b = (1 + K)(γ + δ), which subtracts nothing. It is about
    2γ√K while γ + δ is small. Its root stands in VSGD's denominator as eps stands in Adam's: gradients well below it
    move the weights in proportion to their size. It is approached slowly, because the averaging rates decay.

    Args:
        prior_strength: γ, in (0, ∞).
        variance_ratio: K_g, in (0, ∞).
        shape_offset: δ, in [0, ∞); 0 is the paper as printed.

    Returns:
        The variance, in the square of the gradient's unit; in (0, ∞).

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Chen, Kuzina, Esmaeili, Tomczak: Variational Stochastic Gradient Descent for Deep Neural Networks. Eq. 16 to 21,
        with the moments of Eq. 69 in Eq. 19. The paper does not derive it.

    Example:
        >>> from varigrad.theory import vsgd_variance_floor
        >>> round(vsgd_variance_floor(0.01, 9.0, 0.0), 6)
        0.056943
        >>> round(vsgd_variance_floor(1e-8, 30.0, 5e-5) ** 0.5, 6)  # VSGD's defaults: a standard deviation
        0.000331
    """
    gamma = as_float64("prior_strength", prior_strength, POSITIVE)
    K = as_float64("variance_ratio", variance_ratio, POSITIVE)
    excess = gamma + as_float64("shape_offset", shape_offset, NONNEGATIVE)  # a - ½
    b = (1 + K) * excess
    variance = gamma * (2 * K / (b + torch.hypot(b, 2 * torch.sqrt(K * (0.25 + excess)))))
    return like(variance, prior_strength, variance_ratio, shape_offset)


def vsgd_stationary_variances(gain: Number, variance: Number | float) -> tuple[Number, Number]:
    """The two variances that VSGD believes in once it has settled, for gradients of a fixed mean and variance.

    With a gain w, the innovation e = ĝ - μ has the variance s² = 2R/(2-w), R the variance of ĝ, because μ itself
    carries w/(2-w) of R. Then

        v_g = w s²,   v_o = (1-w) s²

    are a fixed point of Eq. 15 to 21 (for γ, δ → 0) *whatever w is*: the gain is not identified by these equations,
    and stays near where the first steps and the prior have put it.

    Args:
        gain: w = v_g/(v_g + v_o), the weight of a new gradient in the mean; in [0, 1].
        variance: R, the variance of the observed gradient, in [0, ∞).

    Returns:
        v_g, the systematic variance, and v_o, the observation variance.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Chen, Kuzina, Esmaeili, Tomczak: Variational Stochastic Gradient Descent for Deep Neural Networks. Eq. 15 to 21.
        The paper does not derive it.

    Example:
        >>> from varigrad.theory import vsgd_stationary_variances
        >>> vsgd_stationary_variances(0.5, 3.0)
        (2.0, 2.0)
    """
    w = as_float64("gain", gain, GAIN)
    innovation = 2 * as_float64("variance", variance, NONNEGATIVE) / (2 - w)
    return like(w * innovation, gain, variance), like((1 - w) * innovation, gain, variance)


def calibrated_observation_variance(systematic_var: Number, observation_var: Number | float) -> Number:
    """Variance of the observed gradient, read off VSGD's two variances.

        R = (v_g + v_o) (1 - w/2) = v_o + v_g/2,   w = v_g/(v_g + v_o)

    The inverse of `vsgd_stationary_variances`. VSGD's v_o alone falls short of R by the part of the noise that the
    gain ascribes to the true gradient.

    Args:
        systematic_var: v_g, in [0, ∞).
        observation_var: v_o, in [0, ∞).

    Returns:
        The variance, in [0, ∞).

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Chen, Kuzina, Esmaeili, Tomczak: Variational Stochastic Gradient Descent for Deep Neural Networks. Eq. 15 to 21.
        The paper does not derive it.

    Example:
        >>> from varigrad.theory import calibrated_observation_variance
        >>> calibrated_observation_variance(2.0, 2.0)
        3.0
    """
    v_g = as_float64("systematic_var", systematic_var, NONNEGATIVE)
    v_o = as_float64("observation_var", observation_var, NONNEGATIVE)
    return like(v_o + v_g / 2, systematic_var, observation_var)
