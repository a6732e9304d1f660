"""Oracle for "Bayesian filtering unifies adaptive and non-adaptive neural network optimization methods" (Aitchison).

The paper's symbols: eta is Adam's rate, sigma^2 the variance of the prior over a weight, chosen so that eta_SGD is the
rate of the SGD limit (Eq. 23), g the gradient of the *summed* loss. The functions take gradients of the mean loss.

Departures from the print. The paper ascends a log-likelihood; here a loss descends. Algorithm 1 prints
sigma_post^2 <- 1/(sigma_prior^2 + g^2), which lacks a reciprocal: Eq. 18a holds. Algorithm 2 line 11 prints
sigma_post^2 where its right side is 1/sigma_post^2: Eq. 21 holds. Algorithm 1 reads sigma_post^2 before anything sets
it: it starts at sigma^2. The variance's transition is the exact Ornstein-Uhlenbeck one, of which Eq. 17b is a first
order approximation that diverges for eta^2 > 4 sigma^2. lambda is lr * weight_decay.

Schedules, of which the paper says nothing: eta_SGD keeps its ratio to the rate it was given with, so that both limits
follow the schedule. A step with rate 0 advances the moments and nothing else.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .walk import Gradients, Rates, Real, Walk


def adabayes(
    theta: ArrayLike,
    gradients: Gradients,
    lr: Rates,
    *,
    sgd_lr: float = 0.1,
    batch_size: int = 1,
    beta: float = 0.9,
    transition: Literal["exact", "euler"] = "exact",
    weight_decay: float = 0.0,
    reference_lr: float | None = None,
) -> np.ndarray:
    """Algorithm 1: Eq. 2, 17b, 18a and 19, a Kalman filter that follows the drifting optimum of each weight.

    `reference_lr` is the rate that `sgd_lr` belongs to (None: the first entry of the schedule). sigma_post^2 starts at
    the sigma^2 of the first step whose rate is not 0.
    """
    walk = Walk(theta, gradients, lr, weight_decay)
    sgd_per_rate = _sgd_per_rate(walk, sgd_lr, reference_lr)
    B, beta_1 = Real(batch_size), Real(beta)
    m = np.zeros_like(walk.theta)
    sigma2_post = None
    for t, mean_gradient, eta in walk:
        g = B * mean_gradient
        m = beta_1 * m + (1 - beta_1) * g  # Eq. 2
        average_g = m / (1 - beta_1**t)  # Eq. 2
        if eta == 0:
            continue
        sigma2 = eta * sgd_per_rate / B  # Eq. 23
        if sigma2_post is None:
            sigma2_post = sigma2 * np.ones_like(walk.theta)
        if transition == "exact":
            kept = np.exp(-(eta**2) / sigma2)
            sigma2_prior = kept * sigma2_post + sigma2 * -np.expm1(-(eta**2) / sigma2)
        elif transition == "euler":
            if eta**2 >= 4 * sigma2:
                raise ValueError(f"Eq. 17b diverges: eta^2 = {eta**2} is not below 4 sigma^2 = {4 * sigma2}")
            sigma2_prior = (1 - eta**2 / (2 * sigma2)) ** 2 * sigma2_post + eta**2  # Eq. 17b
        else:
            raise ValueError(f"transition must be 'exact' or 'euler', not {transition!r}")
        sigma2_post = 1 / (1 / sigma2_prior + g**2)  # Eq. 18a
        walk.subtract(sigma2_post * average_g)  # Eq. 19b; Eq. 19a is the walk's decay
    return walk.trajectory


def adabayes_fp(
    theta: ArrayLike,
    gradients: Gradients,
    lr: Rates,
    *,
    sgd_lr: float = 0.1,
    batch_size: int = 1,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 0.0,
    weight_decay: float = 0.0,
    reference_lr: float | None = None,
) -> np.ndarray:
    """Algorithm 2: Eq. 2, 4, 19 and 21, the variance set to its fixed point.

    `eps` joins <g^2> inside the root, on the scale of summed gradients; the paper has none (eps = 0).
    """
    walk = Walk(theta, gradients, lr, weight_decay)
    sgd_per_rate = _sgd_per_rate(walk, sgd_lr, reference_lr)
    B = Real(batch_size)
    beta_1, beta_2 = (Real(beta) for beta in betas)
    m = np.zeros_like(walk.theta)
    v = np.zeros_like(walk.theta)
    for t, mean_gradient, eta in walk:
        g = B * mean_gradient
        m = beta_1 * m + (1 - beta_1) * g  # Eq. 2
        v = beta_2 * v + (1 - beta_2) * g**2  # Eq. 4
        average_g = m / (1 - beta_1**t)  # Eq. 2
        average_g2 = v / (1 - beta_2**t)  # Eq. 4
        if eta == 0:
            continue
        sigma2 = eta * sgd_per_rate / B  # Eq. 23
        precision_post = 1 / (2 * sigma2) + np.sqrt(1 / (4 * sigma2**2) + (average_g2 + Real(eps)) / eta**2)  # Eq. 21
        walk.subtract(1 / precision_post * average_g)  # Eq. 19b; Eq. 19a is the walk's decay
    return walk.trajectory


def _sgd_per_rate(walk: Walk, sgd_lr: float, reference_lr: float | None) -> np.longdouble:
    """eta_SGD / eta, which a schedule keeps."""
    reference = Real(reference_lr) if reference_lr is not None else (walk.rates[0] if walk.rates else Real(1))
    if reference == 0 and any(rate != 0 for rate in walk.rates):
        raise ValueError("the schedule starts at 0: say with reference_lr which rate sgd_lr belongs to")
    return Real(sgd_lr) / reference if reference != 0 else Real(np.nan)
