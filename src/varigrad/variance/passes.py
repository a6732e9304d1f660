"""Following backward passes: which gradient belongs to which, and when one has ended."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.nn import Parameter
from torch.utils.checkpoint import CheckpointFunction

from .handle import GradientVariance

__all__ = ["BackwardVariance", "when_done"]


class BackwardVariance(GradientVariance):
    """A method that watches `loss.backward()`.

    For every pass backward that reaches the parameters it calls, in this order: `_arrives` with a parameter's gradient
    before that is added to `p.grad`; `_start` before the first `_added`, unless the pass adds to earlier ones;
    `_added`; and at the end `_end`, or `_drop` if nothing was added, as in `torch.autograd.grad`.
    """

    def __init__(self, model: nn.Module, reason: str) -> None:
        super().__init__(model, reason)
        self._task: int | None = None
        self._adds_to: bool | str = False
        self._anything = False
        for name, param in self.params.items():
            hooked: Any = param
            # What these hooks hold, the garbage collector does not see: it must not be the handle.
            before = hooked.register_hook(functools.partial(_before, weakref.ref(self), name))
            after = hooked.register_post_accumulate_grad_hook(functools.partial(_after, weakref.ref(self), name))
            self._undo += [before.remove, after.remove]

    def _arrives(self, name: str, param: Parameter, grad: Tensor) -> None:
        """This pass's gradient of a parameter, not yet in `p.grad`."""

    def _start(self) -> None:
        """The gradients start from nothing: forget the passes before."""

    def _added(self, name: str, param: Parameter) -> None:
        """The gradient is in `p.grad` now."""

    def _end(self) -> None:
        """The pass is over."""

    def _drop(self) -> None:
        """The pass is over, and has left `p.grad` alone."""

    def _enter(self) -> None:
        """To be called from every hook of a pass: finds out whether it has just begun."""
        task = torch._C._current_graph_task_id()
        if task == self._task:
            return
        _refuse_reentrant(self.method)
        if self._task is not None:
            self._drop()  # the pass before has ended in an error
        self._task = task
        self._anything = False
        with torch.no_grad():
            self._adds_to = self._foundation()
        when_done(self._leave)

    def _leave(self) -> None:
        self._task = None
        with torch.no_grad():
            self._end() if self._anything else self._drop()

    def _before(self, name: str, grad: Tensor) -> None:
        param = self.params[name]
        if grad.layout is not torch.strided:
            raise RuntimeError(
                f"gradient_variance needs dense gradients, but {name} has a sparse one: build the layer with "
                "sparse=False"
            )
        self._enter()
        with torch.no_grad():
            self._arrives(name, param, grad.detach())

    def _after(self, name: str) -> None:
        with torch.no_grad():
            if not self._anything:
                self._anything = True
                if isinstance(self._adds_to, str):
                    raise RuntimeError(self._adds_to)
                if not self._adds_to:
                    self._withdraw()
                    self._start()
            self._added(name, self.params[name])


def _before(owner: weakref.ref[BackwardVariance], name: str, grad: Tensor) -> None:
    if (handle := owner()) is not None:
        handle._before(name, grad)


def _after(owner: weakref.ref[BackwardVariance], name: str, param: Tensor) -> None:
    if (handle := owner()) is not None:
        handle._after(name)


def when_done(callback: Callable[[], None]) -> None:
    """Calls back at the end of the backward pass that is running."""
    engine = Variable._execution_engine
    engine.queue_callback(callback)


def _refuse_reentrant(method: str) -> None:
    """A checkpointed part that goes backward by itself would be taken for a backward pass of its own."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is CheckpointFunction.backward.__code__:
            raise RuntimeError(
                f"gradient_variance(method={method!r}) cannot follow reentrant checkpointing: call "
                "torch.utils.checkpoint.checkpoint with use_reentrant=False"
            )
        frame = frame.f_back
