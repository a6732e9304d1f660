"""What the papers tried, from what is known of their tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from varigrad.lab.errors import LabError, unknown_name
from varigrad.lab.optimizers import OptimizerRow
from varigrad.lab.papers import adabayes, dissecting_adam, svgd, vsgd
from varigrad.lab.papers.paper import Item, Paper
from varigrad.lab.tuning.space import Point


@dataclass(frozen=True)
class Grid:
    """What a paper tried.

    Attributes:
        source: The paper, and where in it.
        points: By the name of the optimizer. Their numbers differ: so the papers have it.
    """

    source: str
    points: Mapping[str, tuple[Point, ...]]

    @classmethod
    def of_item(cls, paper: Paper, item: Item) -> Grid:
        """All that a paper tried for a table or a figure."""
        points: dict[str, dict[str, Point]] = {}
        for cell in item.cells:
            for setting in cell.settings:
                point = Point(setting.lr, setting.weight_decay, setting.arguments)
                points.setdefault(cell.optimizer, {}).setdefault(point.text, point)
        found = {name: tuple(own.values()) for name, own in points.items()}
        return cls(f"{paper.reference}, {item.name}", MappingProxyType(found))

    def of(self, row: OptimizerRow) -> tuple[Point, ...]:
        """The points of an optimizer.

        Raises:
            LabError: The paper has none.
        """
        if row.name not in self.points:
            known = ", ".join(self.points)
            raise LabError(f"{self.source} tried nothing with {row.name} (it did with {known})")
        return self.points[row.name]


def _grids() -> dict[str, Grid]:
    papers = (module.PAPER for module in (vsgd, dissecting_adam, adabayes, svgd))
    return {
        f"{paper.name}/{item.name}": Grid.of_item(paper, item)
        for paper in papers
        for item in paper.items
        if any(len(cell.settings) > 1 for cell in item.cells)  # else there was nothing to choose from
    }


GRIDS: Mapping[str, Grid] = MappingProxyType(_grids())


def find_grid(name: str) -> Grid:
    """The grid of a paper's table or figure.

    Args:
        name: As `varigrad reproduce` calls it, such as `"vsgd/table1"`.

    Raises:
        LabError: There is none; the message lists those there are.

    Example:
        >>> [point.lr for point in find_grid("dissecting-adam/fig5-p4").points["adam"]]
        [0.01, 0.006, 0.003, 0.001, 0.0006, 0.0003, 0.0001, 6e-05]
    """
    if name not in GRIDS:
        raise unknown_name("grid", name, GRIDS)
    return GRIDS[name]
