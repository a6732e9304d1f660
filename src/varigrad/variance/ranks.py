"""The variance over the workers of DistributedDataParallel: every worker's gradient is one sample."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel

from varigrad.engine.batch import deviate

from .arithmetic import is_unseen, working_dtype
from .passes import BackwardVariance, when_done

__all__ = ["RankVariance"]


class RankVariance(BackwardVariance):
    """With the gradients g_r of W workers and their mean `p.grad`, its variance is Σ (g_r - p.grad)² / (W (W-1)).

    The worker keeps its own gradient. After DistributedDataParallel has put the mean into `p.grad`, one more all-reduce
    adds up the squared differences, all parameters in one buffer. So squares are taken of differences only.
    """

    method = "ranks"

    def __init__(self, model: nn.Module, reason: str) -> None:
        if not isinstance(model, DistributedDataParallel):
            raise TypeError(
                "gradient_variance(method='ranks') needs a model in DistributedDataParallel, whose workers' gradients "
                f"are the samples, not a {type(model).__name__}"
            )
        self._group = model.process_group
        self._workers = dist.get_world_size(self._group)
        if self._workers < 2:
            raise ValueError(
                f"gradient_variance(method='ranks') needs at least 2 workers, and this process group has "
                f"{self._workers}"
            )
        super().__init__(model, reason)
        self._model = model
        self._reduces = True
        self._own: dict[str, Tensor] = {}
        self._rooms: dict[str, Tensor] = {}  # for those; new memory would cost as much as filling it
        self._flats: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        self._waiting: dict[str, Tensor] = {}
        self._undo.append(model.register_forward_pre_hook(self._forward_begins).remove)

    def _forward_begins(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        # As DistributedDataParallel itself: what holds at the forward pass decides about the backward pass.
        if torch.is_grad_enabled():
            self._reduces = self._model.require_backward_grad_sync

    def _arrives(self, name: str, param: Parameter, grad: Tensor) -> None:
        self._waiting[name] = grad

    def _start(self) -> None:
        self._own.clear()

    def _added(self, name: str, param: Parameter) -> None:
        grad, own = self._waiting.pop(name), self._own.get(name)
        if own is not None:
            own.add_(grad)
            return
        room = self._rooms.get(name)
        if room is None or room.shape != grad.shape or room.device != grad.device or room.dtype is not grad.dtype:
            room = self._rooms[name] = torch.empty_like(grad, memory_format=torch.contiguous_format)
        # p.grad itself is about to become the mean over the workers.
        self._own[name] = room.copy_(grad)

    def _drop(self) -> None:
        self._waiting.clear()

    def _end(self) -> None:
        self._drop()
        # DistributedDataParallel finishes in a callback too, which was queued after this one.
        when_done(self._averaged)

    @torch.no_grad()
    def _averaged(self) -> None:
        """The gradients are the means over the workers now, if this pass was to reduce them."""
        if self._reduces:
            by_kind: dict[tuple[torch.device, torch.dtype], list[str]] = {}
            for name, param in self.params.items():
                if param.grad is not None:
                    by_kind.setdefault((param.device, working_dtype(param)), []).append(name)
            for (device, dtype), names in by_kind.items():
                self._reduce(names, device, dtype)
        self._remember()

    def _reduce(self, names: list[str], device: torch.device, dtype: torch.dtype) -> None:
        """Adds up the squared deviations of the workers, and publishes the variances as views of one buffer."""
        sizes = [self.params[name].numel() for name in names]
        flat = self._flats.pop((device, dtype), None)
        if flat is None or flat.numel() != sum(sizes) or not is_unseen(flat):
            flat = torch.empty(sum(sizes), dtype=dtype, device=device)
        factor = 1 / (self._workers * (self._workers - 1))
        for name, part in zip(names, torch.split(flat, sizes), strict=True):
            grad, own = self.params[name].grad, self._own.get(name)
            assert grad is not None
            # A parameter that this worker did not use had a gradient of zero here.
            deviate(grad, torch.zeros_like(grad) if own is None else own, factor, part.view(grad.shape))
        dist.all_reduce(flat, group=self._group)
        for name, part in zip(names, torch.split(flat, sizes), strict=True):
            self._publish(name, part.view(self.params[name].shape), self._workers)
        self._flats[device, dtype] = flat
