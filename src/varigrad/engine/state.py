"""What is kept of a parameter between two steps: how it begins, and what the settings of a group make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .rounding import LOW_PRECISION
from .rule import Rule
from .storage import COMPENSATION, local, real, width

__all__ = ["begin", "complete"]

State = dict[str, Tensor]

Start = Callable[[Mapping[str, Any]], Mapping[str, float]]
"""An optimizer's `start`."""


def begin(rule: Rule, start: Start, group: Mapping[str, Any], param: Tensor, state: State) -> None:
    """Gives a parameter the state that it has before its first gradient.

    Args:
        rule: The rule.
        start: Returns the values to start from where that is not zero.
        group: The hyperparameters and flags.
        param: The parameter.
        state: Where its state is to be; empty.
    """
    values = start(group)
    host = not group["capturable"]
    state["step"] = torch.zeros((), dtype=torch.float32, device="cpu" if host else param.device)
    dtype = torch.promote_types(param.dtype, torch.float32)
    for name in rule.state:
        state[name] = torch.zeros_like(param, dtype=group["state_dtype"] or dtype, requires_grad=False)
        real(local(state[name], param)).fill_(values.get(name, 0.0))
    for name in (*rule.statistics, *rule.memory):
        state[name] = torch.full((), values.get(name, 0.0), dtype=width(param.dtype), device=param.device)
    _compensate(group, param, state)


def complete(
    owner: str, rule: Rule, start: Start, group: Mapping[str, Any], params: list[Tensor], states: list[State]
) -> None:
    """Creates what the states of parameters miss before a step.

    Args:
        owner: Whose states they are.
        rule: The rule.
        start: Returns the values to start from where that is not zero.
        group: The hyperparameters and flags.
        params: The parameters.
        states: Their states.

    Raises:
        RuntimeError: If one is the state of other settings.
    """
    wanted = set(rule.state)
    for param, state in zip(params, states, strict=True):
        if not state:
            begin(rule, start, group, param, state)
        elif not state.keys() >= wanted:
            raise RuntimeError(
                f"{owner} keeps {sorted(wanted)} with these settings, but a parameter has {sorted(state)}: they "
                "cannot be changed between two steps; clear optimizer.state to begin anew"
            )
        elif param.dtype in LOW_PRECISION:
            _compensate(group, param, state)


def _compensate(group: Mapping[str, Any], param: Tensor, state: State) -> None:
    """Gives a parameter of low precision a tensor for what its dtype cannot hold, or takes it away."""
    wanted = group["rounding"] == "kahan" and param.dtype in LOW_PRECISION
    if wanted and COMPENSATION not in state:
        state[COMPENSATION] = torch.zeros_like(param, requires_grad=False)
    elif not wanted:
        state.pop(COMPENSATION, None)
