"""How a paper trained a task: its learning rates phase by phase, and what it sets otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from varigrad.lab.errors import LabError
from varigrad.lab.optimizers import OptimizerRow
from varigrad.lab.schedules import phases


@dataclass(frozen=True)
class Protocol:
    """What `--schedule paper` means for a task.

    Attributes:
        source: The paper, and where in it.
        starts: The steps that the phases begin with, from 0, for a run of as many steps as the paper's.
        rates: The learning rates of the phases, by the name of the optimizer.
        arguments: What the paper sets in place of an optimizer's own arguments, by its name.
        l1: Coefficient of the sum of the parameters' absolute values that is added to the loss.
    """

    source: str
    starts: tuple[int, ...]
    rates: Mapping[str, tuple[float, ...]]
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    l1: float = 0.0

    def row(self, row: OptimizerRow) -> OptimizerRow:
        """The optimizer as the paper has it: its arguments, and its first learning rate in place of a ladder.

        Raises:
            LabError: The paper has no learning rates for it.
        """
        if row.name not in self.rates:
            raise LabError(
                f"--schedule paper: {self.source} has no learning rates for {row.name} (it has them for "
                f"{', '.join(self.rates)})"
            )
        arguments = {**row.arguments, **self.arguments.get(row.name, {})}
        summary = f"{row.name} as in {self.source}"
        return dataclasses.replace(row, rates=self.rates[row.name][:1], arguments=arguments, summary=summary)

    def factor(self, optimizer: str, stretch: float) -> Callable[[int], float]:
        """What the learning rate is multiplied by in each step.

        Args:
            optimizer: The optimizer's name.
            stretch: How many times as many steps as the paper's are run.
        """
        rates = self.rates[optimizer]
        return phases([stretch * start for start in self.starts], [rate / rates[0] for rate in rates])
