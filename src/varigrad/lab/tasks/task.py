"""A task: data, a network for it, and how long it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from varigrad.lab.data import DataSource
from varigrad.lab.kinds import Kind
from varigrad.lab.kinds.images import Classification
from varigrad.lab.protocol import Protocol


@dataclass(frozen=True)
class Task:
    """Something to train: every optimizer gets the same.

    Attributes:
        name: What the command line calls it.
        summary: Data and network, in one line.
        data: Where the data comes from.
        model: Makes a freshly initialised network; draws from the global random generator.
        batch_size: Images per step; rows of a text, draws of a problem.
        steps: Steps per run unless told otherwise.
        seeds: Number of runs per learning rate unless told otherwise.
        target: Test accuracy whose first reaching is counted in steps, between 0 and 1.
        pad: Augmentation: shifts of up to this many pixels, and mirror images; 0 for none.
        evaluations: How often a run is evaluated, evenly spaced, the last step included.
        threads: CPU threads unless told otherwise; None leaves the choice to PyTorch.
        protocol: How a paper trained it, if one did.
        kind: What is learnt: how batches are drawn, what the loss is, how the network is judged.
        glance: How many samples of the validation and of the test part the evaluations before the last one look at,
            the same ones every time; None for all, which the last one sees always. Where a network is quick to train
            and slow to judge, this saves the larger part of the time.
        channels_last: Whether on a CPU the weights of convolutions, and what passes through them, have their channels
            last in memory. Many networks are faster by a fifth to a half that way; the last bits differ.
        l2: Coefficient of half the squared weights (not biases and the like) that is added to the loss.
    """

    name: str
    summary: str
    data: DataSource
    model: Callable[[], nn.Module]
    batch_size: int
    steps: int
    seeds: int
    target: float
    pad: int = 0
    evaluations: int = 24
    threads: int | None = None
    protocol: Protocol | None = None
    kind: Kind = field(default_factory=Classification)
    l2: float = 0.0
    glance: int | None = None
    channels_last: bool = False

    def network(self, device: torch.device) -> nn.Module:
        """A freshly initialised network on a device, as it is trained there."""
        model = self.model().to(device)
        if self.channels_last and device.type == "cpu":
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    @property
    def label(self) -> str:
        """The name without the file that it was found in: what reports call it."""
        return self.name.rpartition(":")[2]
