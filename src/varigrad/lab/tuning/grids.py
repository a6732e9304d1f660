"""What the papers tried, as they say it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from varigrad.lab.errors import LabError, unknown_name
from varigrad.lab.optimizers import OptimizerRow
from varigrad.lab.tuning.space import Point


def _points(
    rates: Sequence[float], decays: Sequence[float] = (0.0,), arguments: Sequence[Mapping[str, Any]] = ({},)
) -> tuple[Point, ...]:
    product = itertools.product(rates, decays, arguments)
    return tuple(Point(lr, decay, MappingProxyType(dict(more))) for lr, decay, more in product)


def _descent(high: float, low: float) -> tuple[float, ...]:
    """The rungs 1, 3 and 6 times the powers of ten from `high` down to `low`."""
    rungs = (float(f"{digit}e{exponent}") for exponent in range(2, -7, -1) for digit in (6, 3, 1))
    return tuple(rung for rung in rungs if low <= rung <= high)


@dataclass(frozen=True)
class Grid:
    """What a paper tried.

    Attributes:
        source: The paper, and where in it.
        points: By the name of the optimizer. Their numbers differ: so the papers have it.
    """

    source: str
    points: Mapping[str, tuple[Point, ...]]

    def of(self, row: OptimizerRow) -> tuple[Point, ...]:
        """The points of an optimizer.

        Raises:
            LabError: The paper has none.
        """
        if row.name not in self.points:
            known = ", ".join(self.points)
            raise LabError(f"{self.source} tried nothing with {row.name} (it did with {known})")
        return self.points[row.name]


_VSGD = (0.001, 0.005, 0.01, 0.02)

GRIDS: Mapping[str, Grid] = MappingProxyType(
    {
        "vsgd": Grid(
            "Chen et al. 2024, Sec. 5",
            MappingProxyType(
                {
                    "vsgd": _points(_VSGD, (0.0, 0.01)),
                    "adam": _points(_VSGD),
                    "adamw": _points(_VSGD, (0.01,)),
                    "sgd": _points(_VSGD, arguments=({"momentum": 0.9}, {"momentum": 0.99})),
                }
            ),
        ),
        "dissecting-adam-p2": Grid(
            "Balles and Hennig 2018, Sec. 5, CIFAR-10",
            MappingProxyType(
                {
                    "msgd": _points(_descent(6e-1, 3e-3)),
                    "adam": _points(_descent(6e-3, 6e-5)),
                    "mssd": _points(_descent(6e-3, 3e-5)),
                    "msvag": _points(_descent(1e0, 6e-3)),
                }
            ),
        ),
        "dissecting-adam-p4": Grid(
            "Balles and Hennig 2018, Sec. 5, War and Peace",
            MappingProxyType(
                {
                    "msgd": _points(_descent(1e1, 6e-2)),
                    "adam": _points(_descent(1e-2, 6e-5)),
                    "mssd": _points(_descent(1e-2, 6e-5)),
                    "msvag": _points(_descent(3e1, 1e-1)),
                }
            ),
        ),
    }
)


def find_grid(name: str) -> Grid:
    """The grid called `name`.

    Raises:
        LabError: There is none; the message lists those there are.

    Example:
        >>> [point.lr for point in find_grid("dissecting-adam-p2").points["adam"]]
        [0.006, 0.003, 0.001, 0.0006, 0.0003, 0.0001, 6e-05]
    """
    if name not in GRIDS:
        raise unknown_name("grid", name, GRIDS)
    return GRIDS[name]
