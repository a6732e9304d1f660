"""Oracle for "Dissecting Adam: The Sign, Magnitude and Variance of Stochastic Gradients" (Balles, Hennig).

The paper's symbols: m and v are the debiased moving averages of g and g^2 under one beta, s the estimate of the
gradient's variance, rho the factor by which averaging shrinks it, gamma the variance adaptation factors, alpha the
step size. The paper counts t from 0; k = t + 1 here.

Departures from the print. Sec. 4.4 prints rho(beta, 0) = 0, which Eq. 21 makes 1: there is no variance estimate from
one gradient, s = 0, as that section says. Where beta = 0, rho is 1 for ever and s = 0 for ever: SGD, or its sign.
gamma := 0 where m = v = 0, and sign(0) = 0, so that an unused weight stays where it is. Eq. 64 prints
sum g_k^2 / (|B| - 1) - g^2, which is biased: the sample variance has |B| g^2 / (|B| - 1).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from .walk import Gradients, Rates, Real, Walk, divide


def rho(beta: float, k: int) -> np.longdouble:
    """Eq. 21: the variance of m over the variance of g, after k gradients."""
    beta = Real(beta)
    return (1 - beta) * (1 + beta**k) / ((1 + beta) * (1 - beta**k))


def moments(walk: Walk, beta: float) -> Iterator[tuple[int, np.ndarray, np.longdouble, np.ndarray, np.ndarray]]:
    """The lines that Algorithms 1, 3 and 4 share: yields (k, g, alpha, m, s)."""
    beta = Real(beta)
    m_tilde = np.zeros_like(walk.theta)
    v_tilde = np.zeros_like(walk.theta)
    for k, g, alpha in walk:
        m_tilde = beta * m_tilde + (1 - beta) * g  # Eq. 4
        v_tilde = beta * v_tilde + (1 - beta) * g**2  # Eq. 5
        m = m_tilde / (1 - beta**k)  # Eq. 4
        v = v_tilde / (1 - beta**k)  # Eq. 5
        s = np.zeros_like(g) if k == 1 or beta == 0 else (v - m**2) / (1 - rho(beta, k))  # Eq. 22, Sec. 4.4
        yield k, g, alpha, m, s


def msvag(
    theta: ArrayLike, gradients: Gradients, lr: Rates, *, beta: float = 0.9, weight_decay: float = 0.0
) -> np.ndarray:
    """Algorithm 1, M-SVAG: step along m, each coordinate damped by its relative variance."""
    walk = Walk(theta, gradients, lr, weight_decay)
    for k, _, alpha, m, s in moments(walk, beta):
        gamma = divide(m**2, m**2 + rho(beta, k) * s)  # Eq. 25
        walk.subtract(alpha * (gamma * m))
    return walk.trajectory


def svag(
    theta: ArrayLike, gradients: Gradients, lr: Rates, *, beta: float = 0.9, weight_decay: float = 0.0
) -> np.ndarray:
    """Algorithm 3, SVAG: step along g itself.

    The listing is missing from the text. Sec. C.1: it is Algorithm 1 but for the last two lines, the direction is g,
    and the factors are those of Eq. 23 (Lemma 1 for p = g, whose variance is s and not rho s).
    """
    walk = Walk(theta, gradients, lr, weight_decay)
    for _, g, alpha, m, s in moments(walk, beta):
        gamma = divide(m**2, m**2 + s)  # Eq. 23
        walk.subtract(alpha * (gamma * g))
    return walk.trajectory


def adam_star(
    theta: ArrayLike,
    gradients: Gradients,
    lr: Rates,
    *,
    beta: float = 0.9,
    momentum: bool = True,
    weight_decay: float = 0.0,
) -> np.ndarray:
    """Algorithm 4, Adam*: the sign of m (without momentum: of g), damped by its relative standard deviation.

    The listing is missing from the text. Sec. C.2: one beta, the variance of Eq. 22, rho for the momentum case, no
    epsilon, and the factors (1 + eta^2)^(-1/2) of Eq. 8, where eta^2 is the relative variance s / m^2 of Eq. 9 (times
    rho for m). Sec. C.2 prints (1 + eta)^(-1/2), which is not Eq. 8.
    """
    walk = Walk(theta, gradients, lr, weight_decay)
    for k, g, alpha, m, s in moments(walk, beta):
        variance = rho(beta, k) * s if momentum else s
        gamma = np.sqrt(divide(m**2, m**2 + variance))  # Eq. 8 and 9
        walk.subtract(alpha * (gamma * np.sign(m if momentum else g)))
    return walk.trajectory


def msgd(
    theta: ArrayLike, gradients: Gradients, lr: Rates, *, beta: float = 0.9, weight_decay: float = 0.0
) -> np.ndarray:
    """Algorithm 2 left, M-SGD: step along m."""
    walk = Walk(theta, gradients, lr, weight_decay)
    for _, _, alpha, m, _ in moments(walk, beta):
        walk.subtract(alpha * m)
    return walk.trajectory


def ssd(theta: ArrayLike, gradients: Gradients, lr: Rates, *, weight_decay: float = 0.0) -> np.ndarray:
    """Sec. 2, stochastic sign descent: step along sign(g)."""
    walk = Walk(theta, gradients, lr, weight_decay)
    for _, g, alpha in walk:
        walk.subtract(alpha * np.sign(g))
    return walk.trajectory


def mssd(
    theta: ArrayLike, gradients: Gradients, lr: Rates, *, beta: float = 0.9, weight_decay: float = 0.0
) -> np.ndarray:
    """Algorithm 2 right, M-SSD: step along sign(m)."""
    walk = Walk(theta, gradients, lr, weight_decay)
    for _, _, alpha, m, _ in moments(walk, beta):
        walk.subtract(alpha * np.sign(m))
    return walk.trajectory


def minibatch_variance(sample_gradients: np.ndarray) -> np.ndarray:
    """Eq. 64 without its bias: the variance of the mean of the |B| gradients along the first axis."""
    size = len(sample_gradients)
    if size < 2:
        raise ValueError(f"the variance inside a mini-batch needs two samples, not {size}")
    g = sample_gradients.sum(axis=0) / size
    return ((sample_gradients**2).sum(axis=0) - size * g**2) / (size - 1) / size


def msvag_minibatch(
    theta: ArrayLike, sample_gradients: Gradients, lr: Rates, *, beta: float = 0.9, weight_decay: float = 0.0
) -> np.ndarray:
    """Algorithm 5, M-SVAG with the variance seen inside each mini-batch; each entry is (|B|, *shape).

    The first step is no SGD step: one mini-batch does carry a variance estimate. Nor is beta = 0 degenerate here.
    """
    walk = Walk(theta, sample_gradients, lr, weight_decay, samples=True)
    beta = Real(beta)
    m_tilde = np.zeros_like(walk.theta)
    r_tilde = np.zeros_like(walk.theta)
    for k, samples, alpha in walk:
        g = samples.sum(axis=0) / len(samples)
        m_tilde = beta * m_tilde + (1 - beta) * g
        r_tilde = beta**2 * r_tilde + (1 - beta**2) * minibatch_variance(samples)  # Eq. 67
        m = m_tilde / (1 - beta**k)
        r = r_tilde / (1 - beta ** (2 * k))  # Eq. 67
        gamma = divide(m**2, m**2 + rho(beta, k) * r)
        walk.subtract(alpha * (gamma * m))
    return walk.trajectory
