"""What there is to learn: how batches are drawn from a task's data, what the loss of a batch is, how a model is judged.

`varigrad.lab.kinds.images` classifies images, `varigrad.lab.kinds.text` predicts the next symbol of a text,
`varigrad.lab.kinds.problems` minimises functions of a few parameters.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn


class Batches(Protocol):
    """The batches of one run, in any order: `batches[step]` is what walking there would have given."""

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of a step, on the device of the data."""


class Kind(Protocol):
    """What a task is about. Everything a user's own kind of task has to have."""

    def batches(self, data: Any, batch_size: int, seed: int, pad: int) -> Batches:
        """The batches of a run; they depend on these four and on nothing else.

        Args:
            data: What the task's source loaded, on the device it is to be trained on.
            batch_size: Samples per batch.
            seed: The run's seed.
            pad: The task's augmentation by shifts and mirror images; 0 for none.
        """

    def loss(self, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss that is minimised, a 0-dim tensor: a mean over the samples of the batch."""

    def measure(self, model: nn.Module, data: Any, part: str) -> tuple[float, float]:
        """Loss and accuracy of a model in evaluation mode, without gradients.

        Args:
            model: The model.
            data: The task's data.
            part: `"validation"` or `"test"`.

        Returns:
            The mean loss, and the share of right answers between 0 and 1; where nothing is right or wrong, the share
            of the way from the starting point to the solution.
        """
