"""The variance from every sample's own gradient, by `torch.func`: any model, at the cost of small batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils import _pytree as pytree

from .arithmetic import Moments, join, working_dtype
from .handle import GradientVariance

__all__ = ["SampleVariance"]


class SampleVariance(GradientVariance):
    """Runs the model on one sample at a time, vectorised over the samples, and holds their gradients together.

    Memory: one gradient per sample of a chunk. The samples must not depend on each other, so that batch normalisation
    is possible in evaluation mode only.
    """

    method = "vmap"

    def __init__(self, model: nn.Module, reason: str) -> None:
        super().__init__(model, reason)
        self._model = model
        self._moments: dict[str, Moments] = {}

    def compute(
        self,
        loss_fn: Callable[[Any, Any], Tensor],
        inputs: Any,
        targets: Any,
        *,
        chunk_size: int | None = None,
    ) -> Tensor:
        """Does what forward and `loss.backward()` do for the mean of the samples' losses, sample by sample.

        Adds the gradient of the mean loss to `p.grad`, and sets `p.grad_variance` and `p.grad_samples`. As with
        `backward()`, a second call before `zero_grad()` adds its samples: it should have as many as the first, or
        they would weigh differently.

        Args:
            loss_fn: Takes the model's output and the targets for a batch of one sample, returns that sample's loss,
                a tensor of one element.
            inputs: What the model is called with: a tensor, a tuple or list of positional arguments, or a dictionary of
                keyword arguments. Tensors have the samples along their first dimension; whatever else is passed on.
            targets: The targets, a tensor or any nest of tensors, with the samples along the first dimension; None if
                `loss_fn` needs none.
            chunk_size: How many samples' gradients to hold at a time; None for all.

        Returns:
            The mean loss, detached.

        Raises:
            RuntimeError: If the model mixes the samples (batch normalisation in training mode), or gradients are left
                from before.
            TypeError: If `chunk_size` is not an integer.
            ValueError: If there are fewer than 2 samples, or the tensors disagree on how many there are, or `loss_fn`
                returns more than one number.

        Example:
            >>> import torch, varigrad
            >>> model = torch.nn.Linear(3, 1)
            >>> handle = varigrad.gradient_variance(model, method="vmap")
            >>> loss = handle.compute(torch.nn.functional.mse_loss, torch.randn(8, 3), torch.randn(8, 1))
            >>> model.weight.grad_variance.shape, model.weight.grad_samples
            (torch.Size([1, 3]), 8)
        """
        self._refuse_mixing()
        if chunk_size is not None and (isinstance(chunk_size, bool) or not isinstance(chunk_size, int)):
            raise TypeError(f"chunk_size = {chunk_size!r} is not accepted: it must be an integer, or None for all")
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size = {chunk_size} is not accepted: it must be at least 1")
        leaves, structure = pytree.tree_flatten((inputs, targets))
        where = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        sizes = {leaves[index].shape[0] if leaves[index].dim() else 0 for index in where}
        if len(sizes) != 1:
            raise ValueError(
                f"the tensors in inputs and targets have {sorted(sizes)} samples along their first dimension, where "
                "one number is accepted"
            )
        (count,) = sizes
        if count < 2:
            raise ValueError(f"a variance needs at least 2 samples, and inputs and targets have {count}")
        foundation = self._foundation()
        if isinstance(foundation, str):
            raise RuntimeError(foundation)

        def loss_of_one(params: dict[str, Tensor], rows: list[Tensor]) -> Tensor:
            filled = list(leaves)
            for index, row in zip(where, rows, strict=True):
                filled[index] = row.unsqueeze(0)
            arguments, target = pytree.tree_unflatten(filled, structure)
            if isinstance(arguments, dict):
                output = functional_call(self._model, params, (), arguments)
            else:
                arguments = tuple(arguments) if isinstance(arguments, (tuple, list)) else (arguments,)
                output = functional_call(self._model, params, arguments)
            loss = loss_fn(output, target)
            if loss.numel() != 1:
                raise ValueError(f"loss_fn must return one number for one sample, not the shape {tuple(loss.shape)}")
            return loss.reshape(())

        single = vmap(grad_and_value(loss_of_one), in_dims=(None, 0), randomness="different")
        params = {name: param.detach() for name, param in self.params.items()}
        sums: dict[str, Moments] = {}
        loss = torch.zeros(())
        for start in range(0, count, chunk_size or count):
            rows = [leaves[index][start : start + (chunk_size or count)] for index in where]
            grads, losses = single(params, rows)
            loss = loss.to(losses) + losses.sum() / count
            for name, samples in grads.items():
                moments = _moments(samples, count)
                sums[name] = join(sums[name], moments) if name in sums else moments
        with torch.no_grad():
            self._add(sums, continues=foundation)
        return loss

    def _add(self, sums: dict[str, Moments], continues: bool) -> None:
        """Adds the gradients to `p.grad` and publishes the variances."""
        if not continues:
            self._moments.clear()
        for name, moments in sums.items():
            param = self.params[name]
            total = moments.total.to(param.dtype)
            if param.grad is None:
                param.grad = total.clone()
            else:
                param.grad.add_(total)
            if name in self._moments:
                moments = join(self._moments[name], moments)
            self._moments[name] = moments
            self._publish(name, moments.variance.clone(), moments.size)
        self._remember()

    def _refuse_mixing(self) -> None:
        for path, module in self._model.named_modules():
            batch = isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
            tracked = isinstance(module, _InstanceNorm) and module.training and module.track_running_stats
            if batch or tracked:
                raise RuntimeError(
                    f"gradient_variance(method='vmap') runs one sample at a time, but {path or 'the model'}, a "
                    f"{type(module).__name__}, computes statistics over the batch: call its eval(), or use "
                    "method='layers'"
                )


def _moments(samples: Tensor, count: int) -> Moments:
    """The moments of the samples' contributions to the mean over `count` of them."""
    samples = samples.to(working_dtype(samples)).div_(count)
    if len(samples) == 1:
        return Moments(1, samples[0], torch.zeros_like(samples[0]))
    variance, mean = torch.var_mean(samples, 0)
    return Moments(len(samples), mean * len(samples), variance.mul_(len(samples)))
