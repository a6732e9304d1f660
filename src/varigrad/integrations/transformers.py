"""A callback for the Trainer of Hugging Face transformers; the Trainer needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from varigrad.monitor import NoiseMonitor
from varigrad.writers import JSONLines, Writer

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError(
        "varigrad.integrations.transformers needs transformers: pip install 'varigrad[transformers]'"
    ) from error

__all__ = ["NoiseMonitorCallback"]


class NoiseMonitorCallback(TrainerCallback):
    r"""Runs a `varigrad.NoiseMonitor` on the Trainer's optimizer: signal and noise of every layer while it trains.

    The figures go to JSON lines in a folder, for `varigrad noise`, and to further writers such as
    `varigrad.writers.TensorBoard`. The batch size is the Trainer's: per device, times accumulation, times devices. The
    Trainer clips gradients to `max_grad_norm=1.0` unless told otherwise, and it is the clipped ones that are seen.

    Args:
        every: Optimizer steps from one look to the next, at least 2.
        folder: Where `noise.jsonl` goes; None for the Trainer's `output_dir`.
        writers: Further writers.
        inside_batch: As in `NoiseMonitor`; of no use with clipping.

    Attributes:
        monitor: The monitor of the run; None before training.

    Raises:
        TypeError: When training starts, as `NoiseMonitor`.
        ValueError: When training starts, as `NoiseMonitor`.

    Example:
        >>> from varigrad.integrations.transformers import NoiseMonitorCallback  # doctest: +SKIP
        >>> trainer = transformers.Trainer(model, callbacks=[NoiseMonitorCallback(every=100)])  # doctest: +SKIP
    """

    def __init__(
        self,
        every: int = 250,
        *,
        folder: str | Path | None = None,
        writers: tuple[Writer, ...] = (),
        inside_batch: bool = False,
    ) -> None:
        self.every, self.folder, self.writers, self.inside_batch = every, folder, writers, inside_batch
        self.monitor: NoiseMonitor | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Begins to watch."""
        optimizer = others["optimizer"]
        assert args.output_dir is not None
        self.monitor = NoiseMonitor(
            getattr(optimizer, "optimizer", optimizer),  # what Accelerate has wrapped
            others["model"],
            self.every,
            batch_size=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            writers=[JSONLines(self.folder or args.output_dir), *self.writers],
            inside_batch=self.inside_batch,
            start=state.global_step,
        )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Writes what is left."""
        if self.monitor is not None:
            self.monitor.close()
