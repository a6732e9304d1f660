"""Oracle for AdaptiveVSGD: VSGD's Eq. 15, 16 and 24 with a gain learned from the signs of successive innovations.

No paper has it. Symbols: m the mean, S the observation variance, e the innovation, ell the logit of the gain w, one per
tensor; c is the mean over the tensor of sign(e_t) sign(e_{t-1}), where t-1 is the last step at which that element had a
gradient that was not zero, and the sign of 0 is 1. An element is left out of the mean where its gradient is zero, and
while its S is. The mean is shrunk as if `prior_pairs` more pairs had neither agreed nor differed.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .walk import Gradients, Rates, Real, Walk, divide


def adaptive_vsgd(
    theta: ArrayLike,
    gradients: Gradients,
    lr: Rates,
    *,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    return_state: bool = False,
    **constants: Any,
) -> np.ndarray | tuple[np.ndarray, dict[str, np.ndarray]]:
    """The learned gain, with or without a look ahead, which then stands in the numerator and in the normaliser."""
    walk = Walk(theta, gradients, lr, weight_decay)
    state: dict[str, np.ndarray] = {}
    for eta, u, S in learned(walk, nesterov, state, **constants):
        walk.subtract(eta * divide(u, np.sqrt(u**2 + state["weight"] * S)))
    if not return_state:
        return walk.trajectory
    return walk.trajectory, {name: np.asarray(value, dtype=np.float64) for name, value in state.items()}


def learned(
    walk: Walk,
    nesterov: bool,
    state: dict[str, np.ndarray],
    *,
    start_gain: float = 0.5,
    gain_rate: float = 0.3,
    gain_bounds: tuple[float, float] = (0.005, 0.9),
    prior_pairs: float = 10.0,
    least_rate: float = 1e-3,
) -> Iterator[tuple[np.longdouble, np.ndarray, np.ndarray]]:
    """The learning rate, the direction u and the variance S of the noise, step by step; `state` is kept up to date."""
    m, S = np.zeros_like(walk.theta), np.zeros_like(walk.theta)
    signs = np.ones(walk.theta.shape, dtype=int)  # of the last innovation at a gradient that was not zero
    ell, c = _logit(start_gain), Real(0)
    for t, g, eta in walk:
        ell = min(max(ell + Real(gain_rate) * c, _logit(gain_bounds[0])), _logit(gain_bounds[1]))
        w = max(1 / (1 + np.exp(-ell)), 1 / Real(t))
        e = g - m
        m = m + w * e
        now = np.where(e < 0, -1, 1)
        counted = (g != 0) & (S > 0)
        c = Real(int((now * signs)[counted].sum())) / (int(counted.sum()) + Real(prior_pairs))
        signs = np.where(g == 0, signs, now)
        if t > 1:
            r = max(1 / Real(t - 1), Real(least_rate))
            S = (1 - r) * S + r * (1 - w) * e**2
        state.update(mean=m, observation_variance=S, gain=1 / (1 + np.exp(-ell)), weight=w)
        yield eta, m + w * (g - m) if nesterov else m, S


def _logit(gain: float) -> np.longdouble:
    return np.log(Real(gain)) - np.log1p(-Real(gain))
