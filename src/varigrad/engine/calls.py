"""Numbering the calls of a layer: the same place in the forward pass has the same number in every step."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.autograd.function import BackwardCFunction

__all__ = ["Calls"]

_NOTES = "_varigrad_calls"


@dataclass
class _Segment:
    """What is known of a checkpointed segment: the numbers it began with, and where its recomputation stands."""

    first: dict[str, int] = field(default_factory=dict)
    task: int = -1
    counts: Counter[str] = field(default_factory=Counter)


class Calls:
    """Counts, within one forward pass, the calls of each site.

    A forward pass is the outermost call of the model, or of a module in it where the user calls that one; every pass
    counts from 0, so that no pass depends on what ran before it.

    Reentrant checkpointing (`torch.utils.checkpoint` with `use_reentrant=True`) runs a segment without gradients in
    the forward pass and again, with gradients, inside the backward pass. What is numbered in the first run is noted on
    the autograd functions around it, and the second run continues from that note. The other kind of checkpointing needs
    no such care: it takes nothing from the second run but the saved tensors.
    """

    def __init__(self) -> None:
        self._outermost: nn.Module | None = None
        self._with_gradients = False
        self._counts: Counter[str] = Counter()

    def enter(self, module: nn.Module) -> None:
        """Called before the forward pass of a module that has sites in it."""
        if torch._C._current_graph_task_id() != -1:  # a recomputation is no pass of its own
            return
        # That it is its own outermost module means that the pass before did not end, but was interrupted.
        if self._outermost is None or self._outermost is module:
            self._outermost = module
            self._begin()

    def leave(self, module: nn.Module) -> None:
        """Called after it, whether it succeeded or not."""
        if self._outermost is module:
            self._outermost = None

    def _begin(self) -> None:
        self._with_gradients = torch.is_grad_enabled()
        self._counts.clear()

    def idle(self) -> bool:
        """Whether calls need no number now: no gradients are wanted, here or in the pass around."""
        if torch.is_grad_enabled():
            return False
        if torch._C._current_graph_task_id() != -1:
            return self._segment() is None
        return self._outermost is None or not self._with_gradients

    def number(self, site: str) -> int:
        """Returns the number of this call of a site, and counts it."""
        counts = self._current()
        number = counts[site]
        if not torch.is_grad_enabled():
            functions = _surrounding_functions()
            if not functions:  # not a checkpoint: nothing will ever be differentiated here
                return number
            for function in functions:
                segments = vars(function).setdefault(_NOTES, {})
                segments.setdefault(self, _Segment()).first.setdefault(site, number)
        counts[site] += 1
        return number

    def _current(self) -> Counter[str]:
        task = torch._C._current_graph_task_id()
        if task == -1:
            if self._outermost is None:  # a layer called by itself is a pass of its own
                self._begin()
            return self._counts
        segment = self._segment()
        if segment is None:
            return Counter()
        if segment.task != task:
            segment.task, segment.counts = task, Counter(segment.first)
        return segment.counts

    def _segment(self) -> _Segment | None:
        """The checkpointed segment that is being recomputed, if it is one that was noted."""
        notes: dict[Calls, _Segment] = getattr(torch._C._current_autograd_node(), _NOTES, {})
        return notes.get(self)


def _surrounding_functions() -> list[Any]:
    """The `ctx` of every custom autograd function whose forward pass this is in."""
    found = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        names = frame.f_code.co_varnames
        if frame.f_code.co_name == "forward" and names:
            first = frame.f_locals.get(names[0])
            if isinstance(first, BackwardCFunction):
                found.append(first)
        frame = frame.f_back
    return found
