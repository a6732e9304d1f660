"""The walk of one parameter: what every optimizer shares around its own equations.

Decoupled weight decay before the update (as in AdamW), steps without a gradient skipped wholly, a step counter that
belongs to the parameter, and learning rate schedules. All arithmetic is in `np.longdouble`: on x86 that leaves three
spare digits, so that the papers' literal forms (v - m^2, differences of means) are as exact as the float64 that is
judged by them. Where `longdouble` is float64 (Windows, ARM Macs) they are still good to about 1e-13.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

Real = np.longdouble
Gradients = Sequence[ArrayLike | None]
Rates = float | Sequence[float]


class Walk:
    """Iterate over the steps that have a gradient; `subtract` moves the parameter; `trajectory` is where it has been.

    One iteration yields (k, gradient, rate): k counts from 1, and only the steps that had a gradient. `samples=True`
    says that each gradient carries a leading axis of single-sample gradients.
    """

    def __init__(
        self, theta: ArrayLike, gradients: Gradients, lr: Rates, weight_decay: float, samples: bool = False
    ) -> None:
        self.theta = np.array(theta, dtype=Real)
        self.gradients = gradients
        self.rates = [Real(rate) for rate in (np.full(len(gradients), lr) if np.ndim(lr) == 0 else lr)]
        self.weight_decay = Real(weight_decay)
        self.samples = samples
        self.positions = [self.theta]
        if len(self.rates) != len(gradients):
            raise ValueError(f"lr has {len(self.rates)} entries for {len(gradients)} gradients")

    def __iter__(self) -> Iterator[tuple[int, np.ndarray, np.longdouble]]:
        k = 0
        for gradient, rate in zip(self.gradients, self.rates, strict=True):
            if gradient is not None:
                k += 1
                gradient = np.array(gradient, dtype=Real)
                shape = gradient.shape[1:] if self.samples else gradient.shape
                if shape != self.theta.shape:  # numpy would broadcast, and the oracle would judge by something else
                    raise ValueError(f"gradient of shape {shape} for a parameter of shape {self.theta.shape}")
                self.theta = self.theta * (1 - rate * self.weight_decay)
                yield k, gradient, rate
            self.positions.append(self.theta)

    def subtract(self, update: np.ndarray) -> None:
        """Move the parameter by minus `update`: every method here is written as a descent."""
        self.theta = self.theta - update

    @property
    def trajectory(self) -> np.ndarray:
        """The parameter before the first and after each step, float64 of shape (T + 1, *theta.shape)."""
        return np.stack(self.positions).astype(np.float64)


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, with 0/0 := 0: a coordinate that has never seen a gradient does not move."""
    return np.where(numerator == 0, Real(0), numerator / np.where(numerator == 0, Real(1), denominator))
