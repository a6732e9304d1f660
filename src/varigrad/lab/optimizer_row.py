"""A row of the table of optimizers: a class, and how the lab calls it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import nn

from varigrad.lab.errors import LabError
from varigrad.lab.own import is_own_module


class Elsewhere(torch.optim.Optimizer):
    """A class of a package that the lab can do without: imported when it is called, which gives an instance of it.

    Attributes:
        project: The package, as it is installed.
    """

    project: ClassVar[str]

    def __new__(cls, *args: Any, **arguments: Any) -> Any:
        """An instance of the real class."""
        return getattr(importlib.import_module(cls.__module__), cls.__name__)(*args, **arguments)

    @classmethod
    def named(cls, package: str, name: str, project: str) -> type[Elsewhere]:
        """The class called `name` in `package`, which `pip install project` installs."""
        return type(name, (cls,), {"__module__": package, "project": project})

    @classmethod
    def is_installed(cls) -> bool:
        """Whether the package is there."""
        return importlib.util.find_spec(cls.__module__) is not None


@dataclass(frozen=True)
class OptimizerRow:
    """An optimizer as the lab knows it.

    Attributes:
        name: What the command line calls it.
        optimizer: The class, called with the parameters, `lr`, `weight_decay` and `arguments`.
        summary: What it does, in one line.
        source: The paper, and where in it.
        rates: The learning rates tried first, from low to high.
        arguments: Fixed keyword arguments; everything else stays at the class's defaults.
        derived: Further keyword arguments, from the keywords `lr`, `batch_size` and `steps`: the learning rate, the
            task's batch size and the number of optimizer steps of the run.
        takes_model: Whether the class is called with the model instead of its parameters.
        schedule_free: Whether it needs no falling learning rate: a cosine schedule then stays up after its warm-up.
    """

    name: str
    optimizer: type[torch.optim.Optimizer]
    summary: str
    source: str
    rates: tuple[float, ...]
    arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    derived: Callable[..., Mapping[str, Any]] = lambda lr, batch_size, steps: MappingProxyType({})
    takes_model: bool = False
    schedule_free: bool = False

    @property
    def label(self) -> str:
        """The name without the file that it was found in: what reports call it."""
        return self.name.rpartition(":")[2]

    @property
    def class_name(self) -> str:
        """The class to import, such as `"torch.optim.AdamW"`; of a class in a user's file the file and the class."""
        kind = self.optimizer
        if kind.__module__.startswith("varigrad.lab."):
            return f"{kind.__module__}.{kind.__name__}"
        if is_own_module(kind.__module__):
            return f"{Path(sys.modules[kind.__module__].__file__ or '').stem}.{kind.__name__}"
        package = "torch.optim" if kind.__module__.startswith("torch.optim.") else kind.__module__.split(".")[0]
        return f"{package}.{kind.__name__}"

    def build(
        self, model: nn.Module, lr: float, weight_decay: float, batch_size: int, steps: int
    ) -> torch.optim.Optimizer:
        """The optimizer for all parameters of `model`.

        Args:
            model: What is trained.
            lr: Learning rate.
            weight_decay: Weight decay; a class that takes none is not given it.
            batch_size: The task's.
            steps: Optimizer steps of the run.

        Raises:
            LabError: There is a weight decay, and the class takes none.
        """
        make: Callable[..., torch.optim.Optimizer] = self.optimizer  # their keywords differ from the base class's
        params = model if self.takes_model else model.parameters()
        keywords = self.keywords(lr, batch_size, steps)
        if "weight_decay" not in keywords and takes(self.optimizer, "weight_decay"):
            keywords["weight_decay"] = weight_decay
        elif weight_decay:
            raise LabError(f"{self.name}: {self.class_name} takes no weight decay, got {weight_decay:g} (accepted: 0)")
        return make(params, lr=lr, **keywords)

    def keywords(self, lr: float, batch_size: int, steps: int) -> dict[str, Any]:
        """What the class is called with besides the learning rate and the weight decay."""
        return {**self.derived(lr=lr, batch_size=batch_size, steps=steps), **self.arguments}


def takes(kind: type, keyword: str) -> bool:
    """Whether a class can be called with a keyword argument."""
    known = inspect.signature(kind).parameters
    return keyword in known or any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
