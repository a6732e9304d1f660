"""What a run is: all that its result depends on, and the key that follows from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from varigrad.lab.errors import LabError
from varigrad.lab.optimizers import KNOWN, OptimizerRow, find_optimizer
from varigrad.lab.tasks import Task
from varigrad.lab.training import Settings

# To be counted up when a change of the lab changes what a run gives: runs kept from before are then other runs.
PROTOCOL = 1


@dataclass(frozen=True)
class Specification:
    """All that a run's result depends on, as plain values; neither code nor paths.

    Attributes:
        task: The task's name.
        batch_size: The task's, so that a task that is changed gives other runs.
        evaluations: The task's number of evaluations, for the same reason.
        optimizer: The optimizer's name.
        arguments: Its fixed keyword arguments.
        lr: Learning rate.
        seed: The run's seed.
        settings: The values of `Settings`, but for the device.
        device: Kind of device, such as `"cpu"` or `"cuda"`: each rounds in its own way.
        protocol: The lab's way of training, as a number.
        optimizer_class: The class of an optimizer that is not the lab's own; None of one that is.
        glance: The task's; None if all evaluations see all samples.
        channels_last: True where the task has its channels last and the device is a CPU; else None.
    """

    task: str
    batch_size: int
    evaluations: int
    optimizer: str
    arguments: Mapping[str, Any]
    lr: float
    seed: int
    settings: Mapping[str, Any]
    device: str
    protocol: int = PROTOCOL
    optimizer_class: str | None = None
    glance: int | None = None
    channels_last: bool | None = None

    @classmethod
    def of(cls, task: Task, row: OptimizerRow, lr: float, seed: int, settings: Settings) -> Specification:
        """The specification of what `train` does with the same arguments.

        Example:
            >>> from varigrad.lab.tasks import find_task
            >>> spec = Specification.of(find_task("digits"), find_optimizer("sgd"), 0.1, 0, Settings(steps=300))
            >>> spec.arguments, len(spec.key)
            ({'momentum': 0.9}, 16)
        """
        return cls(
            task=task.name,
            batch_size=task.batch_size,
            evaluations=task.evaluations,
            optimizer=row.name,
            arguments=json.loads(json.dumps(dict(row.arguments))),  # as they come back from a file
            lr=float(lr),
            seed=seed,
            settings={
                field.name: getattr(settings, field.name)
                for field in dataclasses.fields(settings)
                # Runs made before there was autocast keep their keys.
                if field.name not in ("device", *(() if settings.autocast else ("autocast",)))
            },
            device=settings.device.type,
            optimizer_class=None if row.name in KNOWN else row.class_name,
            glance=task.glance,
            channels_last=True if task.channels_last and settings.device.type == "cpu" else None,
        )

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Specification:
        """The specification of which `values` are the values.

        Raises:
            TypeError: A value is missing, or there is one too many.
        """
        return cls(**values)

    def values(self) -> dict[str, Any]:
        """All of it as plain values, but for what is None: so runs made before there was a field keep their keys."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def canonical(self) -> str:
        """The one way to write it down: JSON with sorted keys and no space."""
        return json.dumps(self.values(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def key(self) -> str:
        """The name of the run in a store: the first 16 hexadecimal digits of the SHA-256 of the canonical form."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """For people, such as `"digits, vsgd, lr 0.01, seed 3"`."""
        decay = f", weight decay {self.settings['weight_decay']:g}" if self.settings["weight_decay"] else ""
        return f"{self.task}, {self.optimizer}, lr {self.lr:g}{decay}, seed {self.seed}"

    def row(self, place: str | None = None) -> OptimizerRow:
        """The optimizer, with its arguments.

        Args:
            place: What `find_optimizer` finds it by, where that is not its name.

        Raises:
            LabError: It cannot be found, or is of another class by now.
        """
        arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in self.arguments.items()}
        found = find_optimizer(place or self.optimizer)
        if self.optimizer_class not in (None, found.class_name):
            raise LabError(f"{self.optimizer} is a {found.class_name} by now, the run is of a {self.optimizer_class}")
        return dataclasses.replace(found, name=self.optimizer, arguments=arguments)

    def settings_on(self, device: torch.device) -> Settings:
        """What `train` takes.

        Args:
            device: The device to train on, of the specification's kind.
        """
        return Settings(**self.settings, device=device)
