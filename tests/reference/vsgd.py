"""Oracle for "Variational Stochastic Gradient Descent for Deep Neural Networks" (Chen, Kuzina, Esmaeili, Tomczak).

The paper's symbols: a and b are shape and rate of the Gamma posteriors over the precisions w_g (of the true gradient
around its predecessor) and w_ghat (of the observed gradient around the true one), gamma the prior strength, K_g the
prior ratio of their variances, mu and sigma2 mean and variance of the true gradient, u its control variate.

Four departures from the print. The shapes carry an offset delta (`shape_offset`): a_0 = gamma + delta, and delta more
in every later shape; the paper prints none, which leaves a unit prior variance whatever gamma is; delta = 0 is the
print. Eq. 19 prints mu and sigma with the subscript ghat, which nothing defines; Eq. 69 has g. Eq. 24 and 38 divide by
the bare root; `eps` is added outside it, and eps = 0 is the print. Table 3 prints kappa = (0.9, 0.81), the text asks
for kappa_2 > kappa_1: the defaults here are (0.81, 0.9) for (w_g, w_ghat).
"""

import numpy as np
from numpy.typing import ArrayLike

from .walk import Gradients, Rates, Real, Walk

State = dict[str, np.ndarray]


def vsgd(
    theta: ArrayLike,
    gradients: Gradients,
    lr: Rates,
    *,
    kappas: tuple[float, float] = (0.81, 0.9),
    prior_strength: float = 1e-8,
    variance_ratio: float = 30.0,
    shape_offset: float = 5e-5,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    return_state: bool = False,
) -> np.ndarray | tuple[np.ndarray, State]:
    """Algorithm 1, Eq. 14-24: a belief about the true gradient and about both noises, all three learned."""
    walk = Walk(theta, gradients, lr, weight_decay)
    kappa_1, kappa_2 = (Real(kappa) for kappa in kappas)
    gamma, K_g, delta = Real(prior_strength), Real(variance_ratio), Real(shape_offset)
    one = np.ones_like(walk.theta)
    a_g, a_ghat = gamma + delta, gamma + delta  # Algorithm 1, initialisation (delta: see above)
    b_g, b_ghat = gamma * one, K_g * gamma * one
    mu = 0 * one
    for t, ghat, eta in walk:
        u = mu  # Eq. 14
        mu = b_ghat / (b_ghat + b_g) * u + b_g / (b_ghat + b_g) * ghat  # Eq. 15
        sigma2 = 1 / (a_g / b_g + a_ghat / b_ghat)  # Eq. 16
        a_g = a_ghat = gamma + Real(0.5) + delta  # Eq. 17
        b_g_prime = gamma + Real(0.5) * (sigma2 + (mu - u) ** 2)  # Eq. 18
        b_ghat_prime = K_g * gamma + Real(0.5) * (sigma2 + (mu - ghat) ** 2)  # Eq. 19 with the subscripts of Eq. 69
        rho_1 = Real(t) ** -kappa_1  # Eq. 22
        rho_2 = Real(t) ** -kappa_2  # Eq. 23
        b_g = (1 - rho_1) * b_g + rho_1 * b_g_prime  # Eq. 20
        b_ghat = (1 - rho_2) * b_ghat + rho_2 * b_ghat_prime  # Eq. 21
        walk.subtract(eta / (np.sqrt(mu**2 + sigma2) + Real(eps)) * mu)  # Eq. 24
    return _answer(walk, mu, b_g / a_g, b_ghat / a_ghat, return_state)


def vsgd_per_sample(
    theta: ArrayLike,
    sample_gradients: Gradients,
    lr: Rates,
    *,
    kappas: tuple[float, float] = (0.81, 0.9),
    prior_strength: float = 1e-8,
    variance_ratio: float = 30.0,
    shape_offset: float = 5e-5,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    return_state: bool = False,
) -> np.ndarray | tuple[np.ndarray, State]:
    """Appendix A.3: Eq. 71-74 in place of Eq. 15, 18 and 19. An entry holds M single-sample gradients: (M, *shape)."""
    walk = Walk(theta, sample_gradients, lr, weight_decay, samples=True)
    kappa_1, kappa_2 = (Real(kappa) for kappa in kappas)
    gamma, K_g, delta = Real(prior_strength), Real(variance_ratio), Real(shape_offset)
    one = np.ones_like(walk.theta)
    a_g, a_ghat = gamma + delta, gamma + delta
    b_g, b_ghat = gamma * one, K_g * gamma * one
    mu = 0 * one
    for t, ghats, eta in walk:
        M = len(ghats)
        u = mu
        sigma2 = 1 / (a_g / b_g + a_ghat / b_ghat)  # Eq. 16
        mu_sum, b_g_sum, b_ghat_sum = 0 * one, 0 * one, 0 * one
        for ghat_i in ghats:
            mu_i = u * (b_ghat / (b_ghat + b_g)) + ghat_i * (b_g / (b_ghat + b_g))  # Eq. 71
            b_g_sum = b_g_sum + gamma + Real(0.5) * (sigma2 + (mu_i - u) ** 2)
            b_ghat_sum = b_ghat_sum + K_g * gamma + Real(0.5) * (sigma2 + (mu_i - ghat_i) ** 2)
            mu_sum = mu_sum + mu_i
        a_g = a_ghat = gamma + Real(0.5) + delta  # Eq. 17
        b_g_prime = b_g_sum / M  # Eq. 72
        b_ghat_prime = b_ghat_sum / M  # Eq. 73
        rho_1 = Real(t) ** -kappa_1  # Eq. 22
        rho_2 = Real(t) ** -kappa_2  # Eq. 23
        b_g = (1 - rho_1) * b_g + rho_1 * b_g_prime  # Eq. 20
        b_ghat = (1 - rho_2) * b_ghat + rho_2 * b_ghat_prime  # Eq. 21
        mu = mu_sum / M  # Eq. 74
        walk.subtract(eta / (np.sqrt(mu**2 + sigma2) + Real(eps)) * mu)  # Eq. 24
    return _answer(walk, mu, b_g / a_g, b_ghat / a_ghat, return_state)


def constant_vsgd(
    theta: ArrayLike,
    gradients: Gradients,
    lr: Rates,
    *,
    kappa: float = 0.9,
    prior_strength: float = 1e-8,
    variance_ratio: float = 30.0,
    shape_offset: float = 5e-5,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    return_state: bool = False,
) -> np.ndarray | tuple[np.ndarray, State]:
    """Algorithm 2, Eq. 34-38: one precision omega, the systematic noise a fixed 1/K_g of the observation noise.

    The prior is Eq. 33 as printed, Gamma(gamma, gamma) with no K_g. kappa has no printed value.
    """
    walk = Walk(theta, gradients, lr, weight_decay)
    gamma, K_g, delta = Real(prior_strength), Real(variance_ratio), Real(shape_offset)
    one = np.ones_like(walk.theta)
    a = gamma + delta  # Algorithm 2, initialisation
    b = gamma * one
    mu = 0 * one
    for t, ghat, eta in walk:
        u = mu
        mu = u * (K_g / (K_g + 1)) + ghat * (1 / (K_g + 1))  # Eq. 34
        sigma2 = 1 / (K_g + 1) * b / a  # Eq. 35
        a = gamma + 1 + delta  # Eq. 36
        rho = Real(t) ** -Real(kappa)
        b_prime = gamma + Real(0.5) * (sigma2 + (mu - ghat) ** 2) + Real(0.5) * K_g * (sigma2 + (mu - u) ** 2)
        b = (1 - rho) * b + rho * b_prime  # Eq. 37
        walk.subtract(eta / (np.sqrt(mu**2 + sigma2) + Real(eps)) * mu)  # Eq. 38
    return _answer(walk, mu, b / a / K_g, b / a, return_state)  # the variances of Eq. 31 and 32


def _answer(
    walk: Walk, mu: np.ndarray, systematic: np.ndarray, observation: np.ndarray, return_state: bool
) -> np.ndarray | tuple[np.ndarray, State]:
    """The trajectory, with the final belief beside it on request."""
    if not return_state:
        return walk.trajectory
    state = {"mean": mu, "systematic_variance": systematic, "observation_variance": observation}
    return walk.trajectory, {name: value.astype(np.float64) for name, value in state.items()}
