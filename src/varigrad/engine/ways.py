"""Which of the ways runs a rule: the fastest one that the flags of a group and the tensors allow."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import foreach, fused, loop, triton_way
from .rule import Rule
from .storage import PLAIN, local

__all__ = ["compiled_way", "refusal", "unavailable", "way"]


def unavailable(rule: Rule) -> str:
    """Returns why there is no compiled code for `rule` on any device, in words; empty where there is some."""
    reason = fused.unavailable(rule)
    return reason if reason and triton_way.unavailable(rule) else ""


def refusal(rule: Rule, group: Mapping[str, Any], params: list[Tensor]) -> str:
    """Returns why compiled code cannot run the rule on these parameters, in words; empty where it can.

    Args:
        rule: The rule.
        group: The flags.
        params: The parameters, of any devices.
    """
    elsewhere = False in [param.is_cpu for param in params]
    for device in {param.device for param in (params if elsewhere else params[:1])}:
        if isinstance(reason := compiled_way(rule, group, params, device), str):
            return reason
    return ""


def compiled_way(rule: Rule, group: Mapping[str, Any], params: list[Tensor], device: torch.device) -> ModuleType | str:
    """Returns the module with compiled code for these parameters, or why there is none, in words.

    Args:
        rule: The rule.
        group: The flags.
        params: The parameters.
        device: One that they are on.
    """
    if torch.compiler.is_compiling():
        return "torch.compile makes kernels of its own"
    if not _are_plain(params):
        return "it holds a subclass of torch.Tensor"
    if device.type != "cpu":
        return triton_way.unavailable(rule) or triton_way.trouble(device) or triton_way
    return fused.unavailable(rule) or ("it is capturable, on a CPU" if group["capturable"] else fused)


def way(rule: Rule, group: Mapping[str, Any], params: list[Tensor]) -> ModuleType:
    """Returns the module that runs the rule on these parameters of one device.

    Args:
        rule: The rule.
        group: The flags.
        params: The parameters.
    """
    # The kernels for a GPU have been run in Triton's interpreter alone so far: there they must be asked for.
    device = params[0].device
    wanted = group["fused"] or (group["fused"] is None and group["foreach"] is None and device.type == "cpu")
    if wanted and not group["differentiable"]:
        found = compiled_way(rule, group, params, device)
        if isinstance(found, ModuleType):
            return found
    # A compiler makes its own kernels from the plain loop.
    by_one = group["foreach"] is False or (group["foreach"] is None and torch.compiler.is_compiling())
    return loop if group["differentiable"] or by_one else foreach


def _are_plain(params: list[Tensor]) -> bool:
    """Whether parameters, or their parts here, are tensors with memory of their own and nothing around them."""
    return set(map(type, params)) <= PLAIN or {type(local(param, param)) for param in params} <= PLAIN
