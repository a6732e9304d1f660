"""Stepping every parameter inside the backward pass, so that its gradient can be freed before the next one exists."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .engine.optimizer import RuleOptimizer
from .engine.storage import is_sharded

__all__ = ["GradientRelease", "step_in_backward"]


class GradientRelease:
    """What `step_in_backward` returns: the means to accumulate gradients, and to end the stepping inside backward."""

    def __init__(self, optimizer: RuleOptimizer) -> None:
        self._optimizer = optimizer
        self._held = 0
        self._stepped: set[int] = set()  # by identity, since the last optimizer.step()
        self._hooks = [optimizer.register_step_post_hook(lambda *_: self._stepped.clear())]
        seen: set[int] = set()
        for index, group in enumerate(optimizer.param_groups):
            for position, param in enumerate(group["params"]):
                if param.requires_grad and id(param) not in seen:
                    seen.add(id(param))
                    hook = functools.partial(self._release, index, position)
                    self._hooks.append(param.register_post_accumulate_grad_hook(hook))

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Within this context, backward passes accumulate gradients as usual, and no parameter is stepped.

        For gradient accumulation: all micro-batches but the last one of a step go inside. The gradients take the
        memory then that they take without `step_in_backward`.

        Example:
            >>> import torch, varigrad
            >>> model = torch.nn.Linear(3, 1)
            >>> optimizer = varigrad.VSGD(model.parameters())
            >>> release = varigrad.step_in_backward(model, optimizer)
            >>> with release.hold():
            ...     model(torch.ones(8, 3)).square().mean().backward()
            >>> model(torch.zeros(8, 3)).square().mean().backward()  # steps on the sum of both
            >>> optimizer.step()
            >>> optimizer.state[model.weight]["step"].item()
            1.0
        """
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def remove(self) -> None:
        """Ends it: from the next backward pass on, `optimizer.step()` does all the work again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _release(self, index: int, position: int, param: Tensor) -> None:
        """Steps a parameter whose gradient is complete, and frees the gradient."""
        if self._held:
            return
        name = f"parameter number {position} of group {index}"
        if param.grad is None:
            raise RuntimeError(f"the gradient of {name} is gone already: two step_in_backward are active; remove() one")
        if id(param) in self._stepped:
            raise RuntimeError(
                f"{name} was stepped in an earlier backward pass, and optimizer.step() has not been called since: call "
                "it after each backward pass, or put all backward passes of a step but the last into hold(); a "
                "parameter shared between checkpointed segments needs use_reentrant=False"
            )
        _refuse_unreduced(param)
        groups = self._optimizer.param_groups
        if not (index < len(groups) and position < len(groups[index]["params"])) or (
            groups[index]["params"][position] is not param
        ):
            raise RuntimeError(f"{name} is another one now: remove() this and call step_in_backward again")
        _refuse_group(groups[index], index, self._optimizer)
        self._optimizer.step_parameter(index, position)
        self._stepped.add(id(param))
        param.grad = None


def step_in_backward(model: nn.Module, optimizer: RuleOptimizer) -> GradientRelease:
    """Makes every backward pass step each parameter as soon as its gradient is complete, and free that gradient.

    The gradients of a model then never exist all at once: beside the activations, a backward pass needs memory for
    those of one layer, which saves as many bytes as the parameters take. The result is that of one step after the
    backward pass, to the bit.

    The training loop stays as it is. `optimizer.step()`, called after each backward pass, finds no gradients left and
    changes nothing, but runs its hooks, and schedulers count it; a parameter that has a gradient nevertheless, because
    it was unfrozen or added later, or because the gradient was set by hand, is stepped there as usual.
    `optimizer.zero_grad()`, state dicts, groups and schedulers work as ever, and shared parameters, gradient
    checkpointing (with `use_reentrant=False` where segments share a parameter) and models under `torch.compile` are
    served. A compiled graph returns its gradients together, so that little memory is saved within it.

    What looks at the whole gradient between backward and step finds none:

    - `clip_grad_norm_` returns zero and clips nothing. A bound on each parameter's gradient can be had with a hook of
      its own, `param.register_post_accumulate_grad_hook`, registered before this function is called.
    - `torch.amp.GradScaler` needs to see the gradients before the step: the parameters are stepped on scaled
      gradients, and `scaler.step` raises an AssertionError. Train in bfloat16, which needs no scaler.
    - a step that fails, on a sparse gradient say, leaves the parameters stepped that came before it.
    - gradients are not accumulated over backward passes, except within `hold()`. A second backward pass before
      `optimizer.step()` is refused.

    Args:
        model: The model, or a module that holds all that the optimizer trains.
        optimizer: The optimizer, with parameters of the model.

    Returns:
        A handle with the context `hold()`, in which gradients accumulate, and `remove()`, which ends it all.

    Raises:
        TypeError: If the optimizer is none of this package's, or the model no module.
        ValueError: If the optimizer has a parameter that is not the model's.
        RuntimeError: If the optimizer's step cannot be taken inside a backward pass (`differentiable`, or
            `variance="batch"`, which reads what is only known afterwards); or in a job with a process group, where
            DistributedDataParallel would average the gradients after the step. Parameters sharded by
            `torch.distributed.fsdp.fully_shard`, whose gradients are averaged before, are accepted.

    Example:
        >>> import torch, varigrad
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        >>> optimizer = varigrad.VSGD(model.parameters())
        >>> release = varigrad.step_in_backward(model, optimizer)
        >>> before = model[0].weight.detach().clone()
        >>> model(torch.ones(4, 3)).square().mean().backward()
        >>> model[0].weight.grad is None, torch.equal(model[0].weight, before)
        (True, False)
        >>> optimizer.step()  # as ever: for hooks, schedulers, and what has a gradient left
        >>> release.remove()
    """
    if not isinstance(optimizer, RuleOptimizer):
        raise TypeError(
            f"step_in_backward takes an optimizer of varigrad, which can step one parameter alone, not "
            f"{type(optimizer).__name__}"
        )
    if not isinstance(model, nn.Module):
        raise TypeError(f"step_in_backward takes a torch.nn.Module as the model, not {type(model).__name__}")
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise RuntimeError(
            "step_in_backward cannot serve DistributedDataParallel, which averages the gradients after each parameter "
            "would have been stepped; shard the model with torch.distributed.fsdp.fully_shard instead"
        )
    known = set(map(id, model.parameters()))
    for index, group in enumerate(optimizer.param_groups):
        _refuse_group(group, index, optimizer)
        for position, param in enumerate(group["params"]):
            if id(param) not in known:
                raise ValueError(
                    f"step_in_backward: parameter number {position} of group {index} is not one of the model's; give "
                    "the module that holds all that the optimizer trains, and make the optimizer after the model is "
                    "sharded or copied"
                )
            _refuse_unreduced(param)
    return GradientRelease(optimizer)


def _refuse_group(group: Mapping[str, Any], index: int, optimizer: RuleOptimizer) -> None:
    """Raises where a group's step needs what does not exist inside a backward pass."""
    if group["differentiable"]:
        raise RuntimeError(f"step_in_backward: parameter group {index} has differentiable=True; leave it False")
    if taken := optimizer.rule_for(group).taken:
        raise RuntimeError(
            f"step_in_backward: parameter group {index} reads the {', '.join(taken)} inside the mini-batch beside the "
            "gradient, which is only known after the backward pass; choose variance='stream'"
        )


def _refuse_unreduced(param: Tensor) -> None:
    """Raises where a gradient may not have been averaged over the processes yet."""
    if torch.distributed.is_available() and torch.distributed.is_initialized() and not is_sharded(param):
        raise RuntimeError(
            "step_in_backward: this job has a process group, and a parameter that is not sharded, whose gradient would "
            "be averaged over the processes only after the step; shard the model with "
            "torch.distributed.fsdp.fully_shard, or step after the backward pass"
        )
