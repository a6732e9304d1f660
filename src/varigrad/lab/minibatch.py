"""M-SVAG with the variance inside the mini-batch, as one optimizer."""

from __future__ import annotations

from torch import nn

import varigrad


class MinibatchMSVAG(varigrad.MSVAG):
    """M-SVAG that measures the variance of each gradient inside its mini-batch.

    Args:
        model: The model; its backward passes measure variances from now on.
        lr: Learning rate.
        weight_decay: Decoupled weight decay.
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(model.parameters(), lr=lr, weight_decay=weight_decay, variance="batch")
        self._measuring = varigrad.gradient_variance(model)
