"""What is tried: points of a space that is an optimizer's own, and the same for every task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from scipy.stats.qmc import Halton

from varigrad.lab.errors import LabError, unknown_name
from varigrad.lab.optimizers import OptimizerRow


@dataclass(frozen=True)
class Point:
    """Hyperparameters to try.

    Attributes:
        lr: Learning rate.
        weight_decay: Weight decay, as the optimizer understands it.
        arguments: Further keyword arguments of the optimizer, in place of the lab's.
    """

    lr: float
    weight_decay: float = 0.0
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def values(self) -> dict[str, Any]:
        """All of them by name."""
        return {"lr": self.lr, "weight_decay": self.weight_decay, **self.arguments}

    @property
    def text(self) -> str:
        """For people, such as `"lr 0.00123, weight decay 0.01"`."""
        decay = f", weight decay {self.weight_decay:.3g}" if self.weight_decay else ""
        return f"lr {self.lr:.3g}{decay}" + "".join(f", {name} {value}" for name, value in self.arguments.items())


@dataclass(frozen=True)
class Axis:
    """A hyperparameter that is drawn uniformly in its logarithm.

    Attributes:
        name: What the command line calls it.
        low: The lowest value, above 0.
        high: The highest.
    """

    name: str
    low: float
    high: float

    def at(self, share: float) -> float:
        """The value a share of the way up, between 0 and 1, to five significant digits.

        Example:
            >>> Axis("lr", 1e-4, 1e-1).at(0.5)
            0.0031623
        """
        exact = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        return float(f"{exact:.4e}")  # short enough to be told, and to be the same on every machine


AXES = ("lr", "weight-decay")
_DECAYS = (1e-5, 1e-1)  # of all optimizers


def axes(row: OptimizerRow, names: Sequence[str]) -> tuple[Axis, ...]:
    """The axes of an optimizer's space: its learning rates are those its ladder spans, three decades for everyone.

    Args:
        row: The optimizer.
        names: Which axes, of `AXES`; the learning rate is always among them.

    Raises:
        LabError: There is no such axis, or the learning rate is missing.
    """
    for name in names:
        if name not in AXES:
            raise unknown_name("axis", name, AXES)
    if "lr" not in names or len(set(names)) < len(names):
        raise LabError(f"--space {','.join(names)}: not a space (accepted: lr, or lr,weight-decay)")
    spans = {"lr": (row.rates[0], row.rates[-1]), "weight-decay": _DECAYS}
    return tuple(Axis(name, *spans[name]) for name in names)


def halton(space: Sequence[Axis], trials: int, study: int, weight_decay: float = 0.0) -> tuple[Point, ...]:
    """The first points of a scrambled Halton sequence, which fills the space evenly from the first point on.

    It is SciPy's, which Optuna's QMCSampler draws from as well. That one has the first trial of a study drawn by
    another sampler, at random, and keeps in the study's storage which point comes next; here the points follow from
    these arguments alone, the first one too: a command that is given again, on any machine, asks for the same runs.

    Args:
        space: The axes.
        trials: How many points.
        study: Which scrambling, a number from 0. The points in the unit cube are the same for every optimizer.
        weight_decay: Where it is not an axis.

    Example:
        >>> [point.lr for point in halton([Axis("lr", 1e-4, 1e-1)], trials=3, study=0)]
        [0.013233, 0.00041848, 0.074417]
    """
    cube = Halton(len(space), scramble=True, rng=study).random(trials)
    points = []
    for shares in cube:
        values = {axis.name: axis.at(float(share)) for axis, share in zip(space, shares, strict=True)}
        points.append(Point(values["lr"], values.get("weight-decay", weight_decay)))
    return tuple(points)
