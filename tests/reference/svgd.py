"""Oracle for "SVGD: A Virtual Gradients Descent Method for Stochastic Optimization" (Li, Shu).

The paper's symbols: sigma' is the output of an operation that is linear in its parameter theta, J^(tau) the loss of the
sample tau, m the size of the mini-batch, r the accumulated square of the gradient by sigma', s the scaling coefficient,
alpha the learning rate, epsilon and rho as printed. Everything is computed sample by sample, as Algorithm 1 has it.

A virtual gradient is no function of the gradient, so that these functions need a network: one with nothing but
matrices, biases and tanh between them, and one with a single convolution. The loss of a sample is half the square of
the distance between the network's output and its target. Both return the parameters before the first and after each
step. Departures from the print: the index of the sums ("i = tau" is tau = 1); decoupled weight decay, as in AdamW;
biases and other parameters get the gradient itself unless `biases=True` (the authors' program transforms the weights
alone, Algorithm 1 whatever the operation is linear in). `program=True` is the arithmetic of that program, which takes
the gradient of the mean loss for those of the samples, with r updated before it is used.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .walk import Real

Batches = Sequence[tuple[ArrayLike, ArrayLike]]
Parameters = list[np.ndarray]


class _Operator:
    """T of one operation: what the gradient by its output becomes for its parameter (Algorithm 1)."""

    def __init__(self, scale: float, rho: float, eps: float, program: bool) -> None:
        self.s, self.rho, self.epsilon, self.program = Real(scale), Real(rho), Real(eps), program
        self.r = Real(0)  # Initialize gradient accumulation variable

    def __call__(self, grads: list[np.ndarray]) -> list[np.ndarray]:
        """The transformed gradients of the samples, from those by the output."""
        m = len(grads)
        if self.program:
            grads = [grad / m for grad in grads]
        self.r = self.rho * self.r + (1 - self.rho) * (1 / Real(m)) * sum(grad**2 for grad in grads)
        grads = [self.s * grad / np.sqrt(self.r + self.epsilon) for grad in grads]
        return [m * grad for grad in grads] if self.program else grads  # the sum over the batch is its mean below


def svgd_mlp(
    weights: Sequence[ArrayLike],
    offsets: Sequence[ArrayLike],
    batches: Batches,
    lr: float,
    *,
    scale: float = 0.1,
    rho: float = 0.9,
    eps: float = 1e-6,
    biases: bool = False,
    weight_decay: float = 0.0,
    program: bool = False,
) -> tuple[list[Parameters], list[Parameters]]:
    """Algorithm 1 on sigma_k = W_k tanh(sigma_{k-1}) + b_k, with the input in place of the first tanh."""
    W = [np.array(weight, dtype=Real) for weight in weights]
    b = [np.array(offset, dtype=Real) for offset in offsets]
    alpha, decay = Real(lr), 1 - Real(lr) * Real(weight_decay)
    T = [_Operator(scale, rho, eps, program) for _ in W]
    trajectory = ([list(W)], [list(b)])
    for inputs, targets in batches:
        m = len(np.asarray(inputs))
        activations, grads = [], []
        for x, y in zip(np.asarray(inputs, dtype=Real), np.asarray(targets, dtype=Real), strict=True):
            h, sigma = [x], []
            for k in range(len(W)):
                sigma.append(W[k] @ h[-1] + b[k])
                h.append(np.tanh(sigma[-1]))
            g = [sigma[-1] - y]  # the gradient of J by the last sigma
            for k in reversed(range(1, len(W))):
                g.insert(0, (1 - h[k] ** 2) * (W[k].T @ g[0]))  # what is led on is never transformed (Eq. 10)
            activations.append(h)
            grads.append(g)
        for k in range(len(W)):
            true = [grads[tau][k] for tau in range(m)]
            virtual = T[k](true)
            for_b = virtual if biases else true
            step_W = sum(np.outer(virtual[tau], activations[tau][k]) for tau in range(m)) / m
            W[k] = decay * W[k] - alpha * step_W
            b[k] = decay * b[k] - alpha * sum(for_b) / m
        trajectory[0].append(list(W))
        trajectory[1].append(list(b))
    return trajectory


def svgd_conv(
    kernel: ArrayLike,
    offset: ArrayLike,
    batches: Batches,
    lr: float,
    *,
    stride: int = 1,
    padding: int = 0,
    scale: float = 0.1,
    rho: float = 0.9,
    eps: float = 1e-6,
    biases: bool = False,
    weight_decay: float = 0.0,
    program: bool = False,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Algorithm 1 on one two-dimensional convolution; r has the shape of its output for one sample."""
    K, b = np.array(kernel, dtype=Real), np.array(offset, dtype=Real)
    alpha, decay = Real(lr), 1 - Real(lr) * Real(weight_decay)
    T = _Operator(scale, rho, eps, program)
    trajectory = ([K], [b])
    height, width = K.shape[2:]
    for inputs, targets in batches:
        windows, grads = [], []
        for x, y in zip(np.asarray(inputs, dtype=Real), np.asarray(targets, dtype=Real), strict=True):
            x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
            rows = range(0, x.shape[1] - height + 1, stride)
            columns = range(0, x.shape[2] - width + 1, stride)
            seen = np.array([[x[:, i : i + height, j : j + width] for j in columns] for i in rows])
            sigma = np.array([[[(K[c] * patch).sum() for patch in row] for row in seen] for c in range(len(K))])
            sigma = sigma + b[:, None, None]
            windows.append(seen)
            grads.append(sigma - y)
        m = len(grads)
        virtual = T(grads)
        step_K, step_b = np.zeros_like(K), np.zeros_like(b)
        for tau in range(m):
            for i, j in np.ndindex(*windows[tau].shape[:2]):
                step_K = step_K + virtual[tau][:, i, j, None, None, None] * windows[tau][i, j] / m
            step_b = step_b + (virtual if biases else grads)[tau].sum((1, 2)) / m
        K, b = decay * K - alpha * step_K, decay * b - alpha * step_b
        trajectory[0].append(K)
        trajectory[1].append(b)
    return trajectory
