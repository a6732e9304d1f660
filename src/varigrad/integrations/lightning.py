"""Callbacks for Lightning; its Trainer needs nothing else."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from varigrad.monitor import NoiseMonitor
from varigrad.record import NoiseRecord
from varigrad.writers import JSONLines, Writer, scalars

from .accumulation import AccumulatedNoise

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import GradientAccumulationScheduler
    from lightning.pytorch.strategies import SingleDeviceStrategy
except ImportError as error:
    raise ImportError("varigrad.integrations.lightning needs lightning: pip install 'varigrad[lightning]'") from error

__all__ = ["GradientNoise", "NoiseMonitorCallback"]


class GradientNoise(Callback):
    r"""Logs how much of each layer's gradient is signal, whatever the optimizer.

    It compares the batches that are accumulated into one step. With ḡ the expected gradient of a layer's weights and s
    the variance of the step's, it logs

        signal_to_noise/layer = √(Σ ḡ² / Σ s)

    and `signal_to_noise` over all layers, to the loggers and to `trainer.callback_metrics`. At 1 the gradient of a step
    is as much noise as signal, near 0 it is nothing but noise. The samples in a step divided by signal_to_noise² are
    the noise scale: batches that are much smaller waste steps, much larger ones waste samples.

    Both sums are estimated without bias, at the weights as they are and before Lightning clips, and added up over the
    steps since the last time; a step of a single batch, or with a gradient that is not finite, does not count. The
    training is not changed. A copy of the gradients in float32 is kept, and a backward pass costs a few passes over
    them more. Where the Trainer does not accumulate, set `accumulate_grad_batches=2` and halve the batch size: the
    training is the same but for rounding, unless the model has batch norm.

    Args:
        every_n_steps: The number of optimizer steps that a figure is for; at least 1. Estimates from few are rough.

    Raises:
        TypeError: If `every_n_steps` is no integer.
        ValueError: If `every_n_steps` is less than 1.
        RuntimeError: When training starts, if nothing is accumulated, or there is more than one device or optimizer.

    Warns:
        UserWarning: If there was nothing to compare in `every_n_steps` steps.

    Reference:
        McCandlish, Kaplan, Amodei: An Empirical Model of Large-Batch Training. Eq. 2.9 is the noise scale.

    Example:
        >>> import lightning.pytorch as lightning
        >>> from varigrad.integrations.lightning import GradientNoise
        >>> noise = GradientNoise(every_n_steps=50)
        >>> trainer = lightning.Trainer(callbacks=[noise], accumulate_grad_batches=2, accelerator="cpu", logger=False)
        >>> noise in trainer.callbacks
        True
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        if isinstance(every_n_steps, bool) or not isinstance(every_n_steps, int):
            raise TypeError(f"GradientNoise's every_n_steps must be an integer, not {every_n_steps!r}")
        if every_n_steps < 1:
            raise ValueError(f"GradientNoise's every_n_steps must be at least 1, not {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._noise = AccumulatedNoise()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses what it could not measure."""
        if not isinstance(trainer.strategy, SingleDeviceStrategy) or len(trainer.optimizers) != 1:
            raise RuntimeError(
                "GradientNoise measures on one device with one optimizer, not with "
                f"{type(trainer.strategy).__name__} and {len(trainer.optimizers)} optimizers: remove the callback"
            )
        accumulates = trainer.accumulate_grad_batches > 1 or any(
            one.going_to_accumulate_grad_batches()
            for one in trainer.callbacks
            if isinstance(one, GradientAccumulationScheduler)
        )
        if pl_module.automatic_optimization and not accumulates:
            raise RuntimeError(
                "GradientNoise compares the batches that are accumulated into one step, but accumulate_grad_batches is "
                "1: set Trainer(accumulate_grad_batches=2) and halve the batch size"
            )
        self._noise = AccumulatedNoise()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes in the gradients of one more batch."""
        self._noise.add(pl_module.named_parameters())

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Closes a step, and logs after every so many."""
        self._noise.end_step()
        if (trainer.global_step + 1) % self.every_n_steps:
            return
        ratios = {f"signal_to_noise/{layer}".rstrip("/"): ratio for layer, ratio in self._noise.ratios().items()}
        self._noise = AccumulatedNoise()
        if not ratios:
            steps = self.every_n_steps
            warnings.warn(f"GradientNoise: none of the last {steps} steps accumulated two batches", stacklevel=2)
            return
        trainer.callback_metrics.update(ratios)
        for logger in trainer.loggers:
            logger.log_metrics({name: ratio.item() for name, ratio in ratios.items()}, step=trainer.global_step)


class NoiseMonitorCallback(Callback):
    r"""Runs a `varigrad.NoiseMonitor` on the Trainer's optimizer: signal and noise of every layer while it trains.

    The figures go to the Trainer's loggers, as `noise/snr/layer` and so on, and to JSON lines in a folder for
    `varigrad noise`. It works with one optimizer and any strategy.

    Args:
        every: Optimizer steps from one look to the next, at least 2.
        batch_size: Samples behind one step, accumulated and on all devices; None if unknown.
        folder: Where `noise.jsonl` goes; None for nowhere.
        inside_batch: As in `NoiseMonitor`.

    Attributes:
        monitor: The monitor of the run; None before training.

    Raises:
        RuntimeError: When training starts, if there is not exactly one optimizer.
        TypeError: When training starts, as `NoiseMonitor`.
        ValueError: When training starts, as `NoiseMonitor`.

    Example:
        >>> import lightning.pytorch as lightning
        >>> from varigrad.integrations.lightning import NoiseMonitorCallback
        >>> noise = NoiseMonitorCallback(every=100, batch_size=32)
        >>> trainer = lightning.Trainer(callbacks=[noise], accelerator="cpu", logger=False)
        >>> noise in trainer.callbacks
        True
    """

    def __init__(
        self,
        every: int = 250,
        *,
        batch_size: float | None = None,
        folder: str | Path | None = None,
        inside_batch: bool = False,
    ) -> None:
        self.every, self.batch_size, self.folder, self.inside_batch = every, batch_size, folder, inside_batch
        self.monitor: NoiseMonitor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to watch."""
        if len(trainer.optimizers) != 1:
            raise RuntimeError(
                f"NoiseMonitorCallback watches one optimizer, but there are {len(trainer.optimizers)}: remove it"
            )
        writers: list[Writer] = [_Loggers(trainer)]
        if self.folder is not None:
            writers.append(JSONLines(self.folder))
        self.monitor = NoiseMonitor(
            trainer.optimizers[0],
            pl_module,
            self.every,
            batch_size=self.batch_size,
            writers=writers,
            inside_batch=self.inside_batch,
            start=trainer.global_step,
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes what is left."""
        if self.monitor is not None:
            self.monitor.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Writes what there is of a run that ends early."""
        self.on_train_end(trainer, pl_module)


class _Loggers(Writer):
    """The Trainer's loggers."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def write(self, record: NoiseRecord) -> None:
        for logger in self._trainer.loggers:
            logger.log_metrics(dict(scalars(record)), step=record.step)
