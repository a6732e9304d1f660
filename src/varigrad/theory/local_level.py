"""The best constant gain for a gradient that drifts at random and is observed with noise."""

from __future__ import annotations

import torch

from .arguments import NONNEGATIVE, Number, as_float64, like

__all__ = ["local_level_gain"]


def local_level_gain(drift_variance: Number, observation_variance: Number | float) -> Number:
    """Gain of the stationary Kalman filter of the local-level model.

    The true gradient is a random walk, the observed one adds noise to it:

        g_t = g_{t-1} + N(0, q),   ĝ_t = g_t + N(0, r)

    The mean μ_t = μ_{t-1} + w (ĝ_t - μ_{t-1}) has the smallest squared error for the root in [0, 1] of
    r w² + q w - q = 0,

        w = (√(q² + 4qr) - q) / (2r) = 2√q / (√q + √(q + 4r))

    of which the second form subtracts nothing. It is the gain at which the innovations ĝ_t - μ_{t-1} are uncorrelated,
    and the one that a learned gain should find; the best momentum is 1 - w.

    Args:
        drift_variance: q, variance of the change of the true gradient per step, in [0, ∞).
        observation_variance: r, variance of the observation noise, in [0, ∞), in the unit of q; only q/r matters.

    Returns:
        The gain w, in [0, 1]: 0 without drift, 1 without observation noise.

    Raises:
        ValueError: If an argument is out of its range, or both are 0, where every gain is best.

    Reference:
        The steady state of Kalman's filter for a random walk observed with noise.

    Example:
        >>> from varigrad.theory import local_level_gain
        >>> round(local_level_gain(1.0, 2.0), 12), round(local_level_gain(1.0, 90.0), 12)
        (0.5, 0.1)
    """
    q = as_float64("drift_variance", drift_variance, NONNEGATIVE)
    r = as_float64("observation_variance", observation_variance, NONNEGATIVE)
    if ((q == 0) & (r == 0)).any():
        raise ValueError(
            "drift_variance = 0 is not accepted with observation_variance = 0: one of them must be positive"
        )
    return like(2 * torch.sqrt(q) / (torch.sqrt(q) + torch.sqrt(q + 4 * r)), drift_variance, observation_variance)
