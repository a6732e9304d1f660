"""The handle on a model whose gradients are virtual ones: r, and what it makes of the gradient by a layer's output."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .engine.batch import normalise, normalises, sum_of_squares
from .engine.taps import Call, Taps

__all__ = ["Scaler", "VirtualGradients"]

TINY = float(torch.finfo(torch.float32).tiny)

LARGE = 2**13
"""Elements of one sample from which on samples are squared one by one: their sum stays in the processor's cache."""


class Scaler(Protocol):
    """What is needed of a `torch.amp.GradScaler`."""

    def get_scale(self) -> float:
        """Returns what the loss is multiplied by."""


class VirtualGradients:
    """Makes the gradients of a model's weights virtual ones; made by `virtual_gradients`, or by `SVGD`.

    Attributes:
        squares: r, the running mean square of the gradient by a layer's output: for each site the tensors of its
            calls by their number in the forward pass.
        provisional: Whether what a backward pass makes of r counts only after `commit()`.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Callable[[str], Mapping[str, Any]],
        biases: bool,
        per: str,
        loss_reduction: str,
        grad_scaler: Scaler | None,
    ) -> None:
        self.squares: dict[str, dict[int, Tensor]] = {}
        self.provisional = False
        self._pending: dict[str, dict[int, Tensor]] = {}
        self._settings = settings
        self._per = per
        self._loss_reduction = loss_reduction
        self._grad_scaler = grad_scaler
        self._loss_scale = (-1, 1.0)
        self._rooms = threading.local()
        self._taps = Taps(
            model,
            self._virtual,
            substitute=True,
            biases=biases,
            on_node=self._beside,
            followed=(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) if per == "channel" else (nn.Linear,),
        )
        self._sites = {path for _, parameters in self._taps.modules.values() for path, *_ in parameters}
        if not self._sites:
            self._taps.remove()
            raise ValueError(
                f"model = {type(model).__name__} has no layer whose gradient can be made virtual: Linear, Conv, "
                "ConvTranspose, Embedding or MultiheadAttention"
            )
        left_alone = sorted(_left_alone(model, self._sites, biases))
        if left_alone:
            warnings.warn(
                f"these parameters keep their true gradients, because their layers cannot be served: "
                f"{', '.join(left_alone)}",
                stacklevel=3,
            )

    def _virtual(self, call: Call, inputs: Tensor, grad: Tensor) -> Tensor | None:
        """Returns the normalised gradient, with the samples in the first dimension, as it gets it."""
        if grad.numel() == 0:
            return None
        exact = grad if grad.dtype in (torch.float32, torch.float64) else grad.float()
        work = self._room_for(exact)
        if self._per == "position" and _is_dense(exact) and normalises(exact):
            r = self._kept(call, exact[0])
            normalise(exact, r, None, work, self._numbers(call, len(exact), len(exact)))
            return work.to(grad.dtype)
        gain = self._gain(call, exact, work)
        return torch.mul(exact, gain, out=work).to(grad.dtype)  # T applied

    def _beside(
        self, call: Call, inputs: Tensor, grad: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The same for a matrix or per channel: T is a factor for each row of the weight's gradient."""
        if grad.numel() == 0:
            return weight, bias
        if grad.dim() == 2 and grad.is_contiguous() and normalises(grad):
            r = self._kept(call, grad[0])
            gain = torch.empty_like(r)
            normalise(grad, r, gain, None, self._numbers(call, len(grad), len(grad)))
        else:
            gain = self._gain(call, grad, self._room_for(grad)).flatten()
        if weight is not None:
            weight = weight.mul_(gain.view(-1, *[1] * (weight.dim() - 1)))
        return weight, None if bias is None else bias * gain

    def _numbers(self, call: Call, samples: int, count: int) -> tuple[float, float, float, float]:
        """ρ, what a sum of `count` squares is multiplied by, what is added to r, and s."""
        settings = self._settings(call.site)
        # Each sample's own gradient is, for a mean over m samples, m times what arrives.
        factor = (samples if self._loss_reduction == "mean" else 1) / self._scale_of_the_loss()
        floor = settings["eps"] or TINY  # 0/0 := 0, without a gradient there is no step
        return settings["rho"], (1 - settings["rho"]) * factor**2 / count, floor, settings["scale"]

    def _gain(self, call: Call, grad: Tensor, work: Tensor) -> Tensor:
        """Updates r, and returns T in a shape that can be multiplied into the gradient."""
        channel = call.operation.channel % grad.dim()
        if self._per == "channel":
            total, count = _sum_of_squares(grad, work), grad.numel() // grad.shape[channel]
            if along := [d - 1 for d in range(1, grad.dim()) if d != channel]:
                total = total.sum(along)
        else:
            total, count = _sum_of_squares(grad, work), len(grad)
        r = self._kept(call, total)
        rho, share, floor, scale = self._numbers(call, len(grad), count)
        fresh = (r * rho).add_(total, alpha=share)  # Algorithm 1, r
        torch.where(fresh < torch.inf, fresh, r, out=r)  # an overflow, or a NaN, is not remembered
        gain = (r + floor).rsqrt_().mul_(scale)  # T
        return gain.view([-1] + [1] * (grad.dim() - channel - 1)) if self._per == "channel" else gain

    def _room_for(self, grad: Tensor) -> Tensor:
        """A tensor to work in, like `grad`; on a CPU always the same memory, because new memory costs a pass."""
        if grad.device.type != "cpu" or not _is_dense(grad):
            return torch.empty_like(grad)
        room: Tensor | None = getattr(self._rooms, "room", None)
        if room is None or room.dtype is not grad.dtype or room.numel() < grad.numel():
            room = self._rooms.room = grad.new_empty(grad.numel())
        return room.as_strided(grad.shape, grad.stride())

    def _kept(self, call: Call, like: Tensor) -> Tensor:
        """The r of one call, to be written over; zero at first."""
        calls = (self._pending if self.provisional else self.squares).setdefault(call.site, {})
        r = calls.get(call.number)
        if r is None and self.provisional and (known := self.squares.get(call.site, {}).get(call.number)) is not None:
            r = calls[call.number] = known.clone()
        if r is None:
            r = calls[call.number] = torch.zeros_like(like)
        elif r.shape != like.shape:
            raise ValueError(
                f"{call.site} ({type(call.module).__name__}), call {call.number}: its output was shaped "
                f"{tuple(r.shape)} for one sample, and is {tuple(like.shape)} now; per='position' needs the same shape "
                "in every step: use per='channel'"
            )
        elif r.device != like.device or r.dtype is not like.dtype or r.stride() != like.stride():
            r = calls[call.number] = torch.empty_like(like).copy_(r)
        return r

    def _scale_of_the_loss(self) -> float:
        if self._grad_scaler is None:
            return 1.0
        task = torch._C._current_graph_task_id()
        if self._loss_scale[0] != task:  # asked once in a backward pass: the host waits for the answer
            self._loss_scale = (task, self._grad_scaler.get_scale())
        return self._loss_scale[1]

    def remove(self) -> None:
        """Takes it off the model, whose gradients are true again. A second call does nothing."""
        self._taps.remove()

    def commit(self) -> None:
        """Has what backward passes have made of r since the last time count."""
        for site, calls in self._pending.items():
            self.squares.setdefault(site, {}).update(calls)
        self._pending = {}

    def discard(self) -> None:
        """Takes back what backward passes have made of r since the last `commit()`, where it is provisional."""
        self._pending = {}

    def state_dict(self) -> dict[str, Any]:
        """Returns r, by site and number of the call."""
        return {"squares": {site: dict(calls) for site, calls in self.squares.items()}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Loads what `state_dict` returned; shares no storage with it.

        Args:
            state_dict: The saved state.

        Raises:
            ValueError: If it is no such state, or another model's.
        """
        self.check_state_dict(state_dict)
        self._pending = {}
        self.squares = {
            site: {number: r.detach().clone() for number, r in calls.items()}
            for site, calls in state_dict["squares"].items()
        }

    def check_state_dict(self, state_dict: object) -> None:
        """Raises ValueError unless `load_state_dict` would load it."""
        squares = state_dict.get("squares") if isinstance(state_dict, Mapping) else None
        if not isinstance(squares, Mapping):
            raise ValueError("the state dict is not one of virtual gradients: it has no 'squares'")
        foreign = sorted(set(squares) - self._sites)
        if foreign:
            raise ValueError(f"the state dict belongs to another model: this one has no layer {', '.join(foreign)}")


def _is_dense(grad: Tensor) -> bool:
    """Whether the samples lie one after the other without gaps."""
    return grad.is_contiguous() or (grad.dim() == 4 and grad.is_contiguous(memory_format=torch.channels_last))


def _sum_of_squares(grad: Tensor, work: Tensor) -> Tensor:
    """Returns the sum over the samples of the squared gradient, in the layout of the gradient."""
    if _is_dense(grad) and normalises(grad):
        return sum_of_squares(grad)
    if grad.device.type == "cpu" and grad[0].numel() >= LARGE:
        total = torch.zeros_like(grad[0])
        for sample in grad:
            total.addcmul_(sample, sample)
        return total
    return torch.sum(torch.mul(grad, grad, out=work), 0, out=torch.empty_like(grad[0]))


def _left_alone(model: nn.Module, served: set[str], biases: bool) -> Iterator[str]:
    """The trainable parameters that are neither served nor plain by intention, with the types of their layers."""
    for path, module in model.named_modules():
        intended = () if biases else ("bias", "in_proj_bias", "bias_k", "bias_v")
        prefix = path + "." if path else ""
        if "Norm" in type(module).__name__ and not biases:
            continue
        serves = any(name.startswith(prefix) and "." not in name[len(prefix) :] for name in served)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and prefix + name not in served and not (serves and name in intended):
                yield f"{prefix}{name} ({type(module).__name__})"
