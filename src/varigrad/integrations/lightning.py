"""A callback for Lightning; its Trainer needs nothing else."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from .moments import KNOWN, Moments, moments

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
except ImportError as error:
    raise ImportError("varigrad.integrations.lightning needs lightning: pip install 'varigrad[lightning]'") from error

__all__ = ["SignalToNoise"]


class SignalToNoise(Callback):
    r"""Logs how much of each layer's gradient is signal, read from the optimizer's state.

    With ḡ the mean of the gradient of a layer's weights and s their variances from one mini-batch to another, it logs

        signal_to_noise/layer = √(Σ ḡ² / Σ s)

    and `signal_to_noise` over all layers. Nothing is computed during a step; a logged step reads the state once.

    At 1 a mini-batch's gradient is as much noise as signal, near 0 it is nothing but noise. The batch size divided by
    signal_to_noise² is the noise scale: batches that are much smaller waste steps, much larger ones waste samples.

    The figures are estimates from moving averages and lag behind by as many steps as the averages reach: a few times
    1/(1-β), or 1/w for VSGD and ConstantVSGD. The gain w of ConstantVSGD is 1/(1+K); that of VSGD falls to a hundredth
    and less where gradients are of size 1, so that its first thousand steps then show too little signal. A layer that
    has had no gradient is left out; one whose gradients were all zero has NaN with SVAG, MSVAG and AdamStar.

    Args:
        every_n_steps: The number of optimizer steps between two readings; at least 1.

    Raises:
        TypeError: If `every_n_steps` is no integer, or, when training starts, if an optimizer keeps no variance of the
            gradient: VSGD, ConstantVSGD, SVAG, MSVAG and AdamStar do.
        ValueError: If `every_n_steps` is less than 1.
        RuntimeError: When training starts, if the strategy shards the model.

    Reference:
        McCandlish, Kaplan, Amodei: An Empirical Model of Large-Batch Training. Eq. 2.9 is the noise scale.

    Example:
        >>> import lightning.pytorch as lightning
        >>> from varigrad.integrations.lightning import SignalToNoise
        >>> trainer = lightning.Trainer(callbacks=[SignalToNoise(every_n_steps=100)], accelerator="cpu", logger=False)
        >>> [callback.every_n_steps for callback in trainer.callbacks if isinstance(callback, SignalToNoise)]
        [100]
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        if isinstance(every_n_steps, bool) or not isinstance(every_n_steps, int):
            raise TypeError(f"SignalToNoise's every_n_steps must be an integer, not {every_n_steps!r}")
        if every_n_steps < 1:
            raise ValueError(f"SignalToNoise's every_n_steps must be at least 1, not {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._read_at = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses what it could not read."""
        if isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)):
            raise RuntimeError(
                f"SignalToNoise needs whole parameters, but {type(trainer.strategy).__name__} shards them: remove the "
                "callback, or train with a strategy that does not shard"
            )
        for optimizer in trainer.optimizers:
            if not isinstance(optimizer, KNOWN):
                known = ", ".join(kind.__name__ for kind in KNOWN)
                raise TypeError(
                    f"SignalToNoise reads the variance of the gradient, which {type(optimizer).__name__} does not "
                    f"keep: remove the callback, or use one of {known}"
                )
        self._read_at = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Reads and logs, where enough steps have been taken since the last time."""
        if trainer.global_step // self.every_n_steps == self._read_at // self.every_n_steps:
            return
        self._read_at = trainer.global_step
        ratios = signal_to_noise(trainer.optimizers, pl_module)
        trainer.callback_metrics.update(ratios)
        metrics = {name: ratio.item() for name, ratio in ratios.items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)


@torch.no_grad()
def signal_to_noise(optimizers: list[torch.optim.Optimizer], module: torch.nn.Module) -> dict[str, Tensor]:
    """Returns what `SignalToNoise` logs, by name, as 0-dim tensors."""
    layers = {param: name.rpartition(".")[0] for name, param in module.named_parameters()}
    found: dict[str, list[Moments]] = defaultdict(list)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for param in group["params"]:
                if param in layers and (values := moments(optimizer, group, param)):
                    found[f"signal_to_noise/{layers[param]}"].append(values)
    found["signal_to_noise"] = [values for layer in found.values() for values in layer]
    return {name: _ratio(values) for name, values in found.items() if values}


def _ratio(values: list[Moments]) -> Tensor:
    # Estimates below zero count in the sum, and only there: what noise adds to one it takes from another.
    mean_square = torch.stack([one.mean_square for one in values]).sum()
    variance = torch.stack([one.variance for one in values]).sum()
    return (mean_square.clamp(min=0) / variance).sqrt()
