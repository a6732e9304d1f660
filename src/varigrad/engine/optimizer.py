"""The class every optimizer here derives from: torch's conventions around a rule.

An optimizer is a rule, the table of what its hyperparameters accept, and the scalars that the rule needs at a step.
Everything else (groups, state, checkpoints, complex and low-precision parameters, the choice of a way) is here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, overload

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from .belief import Belief, believed
from .bucket import Bucket, buckets, run
from .checkpoint import TORCHS, loading, only_wants_state, read_setting, refuse_foreign, refuse_incomplete, saving
from .groups import (
    CYCLED,
    FLAGS,
    SHARED,
    check,
    known_flags,
    name_of,
    place,
    refuse_dtypes,
    refuse_tensors,
    refuse_unknown,
)
from .hyperparameters import Accepts
from .keywords import keyword_arguments
from .loss_scale import UNSCALED, LossScale, loss_scale
from .operations import Scalar
from .per_tensor import Numbers, advance
from .rule import Rule
from .state import begin, complete
from .ways import refusal, unavailable, way

__all__ = ["RuleOptimizer"]


class RuleOptimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` whose step is a rule.

    A subclass names its `rule`, says in `accepts` what its hyperparameters accept, and returns from `scalars` the
    keyword arguments of the rule. Statistics are computed in float32, or in float64 for float64 parameters, whatever
    the dtype of the parameter. Parameters without a gradient are skipped wholly: they do not decay, and their step
    does not count.

    Args:
        params: Parameters, named parameters, or dictionaries that define parameter groups.
        arguments: The constructor's arguments by name, every hyperparameter among them, and what flags it offers, one
            by one or together as `flags`; a subclass's constructor hands over its `locals()`.

    Raises:
        TypeError: If a hyperparameter or flag has the wrong type or is not known, or a group has a key that nothing
            knows.
        ValueError: If a hyperparameter is out of range in the defaults or in a group, or `params` is empty.
        RuntimeError: If flags exclude each other.
    """

    rule: ClassVar[Rule]
    accepts: ClassVar[Mapping[str, Accepts]]

    def __init__(self, params: ParamsT, arguments: Mapping[str, Any]) -> None:
        if isinstance(params, nn.Module):
            name = type(self).__name__
            raise TypeError(f"{name} takes the parameters of a model, not the model: {name}(model.parameters(), ...)")
        arguments = {**arguments, **known_flags(type(self).__name__, arguments.get("flags", {}))}
        defaults = {name: arguments[name] for name in (*SHARED, *self.accepts)}
        defaults |= {name: arguments.get(name, default) for name, (_, default) in FLAGS.items()}
        if "beta" in defaults:
            defaults.setdefault(CYCLED, True)
        self._check(defaults)
        super().__init__(params, defaults)

    # ---------------------------------------------------------------- what a subclass says

    def scalars(self, step: Scalar, group: Mapping[str, Any], memory: Mapping[str, Tensor]) -> dict[str, Any]:
        """Returns the rule's keyword arguments at one step.

        Args:
            step: The number of this step for the parameter, from 1; a float, or a 0-dim tensor where the host must
                not wait for it.
            group: The hyperparameters.
            memory: The statistics as the last step left them, and the memory, with an entry for each tensor of a
                bucket; what is computed from them, element by element, has one too. A value returned under the name
                of a memory is kept for the next step. With a memory, a `step` on the device has an entry for each too.
        """
        raise NotImplementedError

    def rule_for(self, group: Mapping[str, Any]) -> Rule:
        """Returns the rule of a parameter group, where its hyperparameters choose between several."""
        return self.rule

    def prepare(self, group: dict[str, Any]) -> None:
        """Called before each step of a group, which it may note something in."""

    def start(self, group: Mapping[str, Any]) -> dict[str, float]:
        """Returns the values that state, statistics and memory start from, where that is not zero."""
        return {}

    def inputs(self, group: Mapping[str, Any], param: Tensor, name: Callable[[], str]) -> dict[str, Tensor]:
        """Returns the element-wise arguments that the rule takes beside the gradient.

        Args:
            group: The hyperparameters.
            param: The parameter, which has a gradient.
            name: Returns what to call the parameter in an error.
        """
        return {}

    def believe(self, group: Mapping[str, Any], step: Scalar, state: Mapping[str, Tensor], param: Tensor) -> Belief:
        """Returns what the method believes about the gradient that it descends along, as far as its model goes.

        Args:
            group: The hyperparameters, at the parameter's last step.
            step: The number of that step, from 1.
            state: The state, statistics and memory it has left, as real tensors in the width computed in.
            param: The parameter.
        """
        return Belief()

    # ---------------------------------------------------------------- beliefs

    def belief(self, param: Tensor) -> Belief:
        """Returns what this optimizer believes about the gradient of a parameter, as of its last step.

        Args:
            param: A parameter of this optimizer that has been stepped.

        Returns:
            Estimate of the true gradient, its uncertainty, noise and drift, each shaped like the parameter, or None
            where this method has no such notion. Which it has is in `docs/beliefs.md`.

        Raises:
            TypeError: If `param` is no tensor.
            ValueError: If it is not a parameter of this optimizer.
            RuntimeError: If it has not been stepped yet.

        Example:
            >>> import torch, varigrad
            >>> weight = torch.ones(3, requires_grad=True)
            >>> optimizer = varigrad.VSGD([weight])
            >>> weight.square().sum().backward()
            >>> optimizer.step()
            >>> bool((optimizer.belief(weight).variance > 0).all())
            True
        """
        return believed(self, param)

    # ---------------------------------------------------------------- parameter groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group; what it does not set is taken from the constructor.

        Args:
            param_group: `params` and any hyperparameters and flags.

        Raises:
            TypeError: If a value has the wrong type or a key is unknown.
            ValueError: If a value is out of range.
            RuntimeError: If flags exclude each other, or a parameter has a dtype that cannot be trained in.
        """
        index = len(self.param_groups)
        if isinstance(param_group, dict):
            refuse_unknown(type(self).__name__, self.defaults, param_group, index)
            self._check({**self.defaults, **param_group}, index)
        super().add_param_group(param_group)
        try:
            refuse_dtypes(type(self).__name__, self.param_groups[index], index)
        except RuntimeError:
            del self.param_groups[index]
            raise

    def _check(self, group: Mapping[str, Any], index: int | None = None) -> None:
        """Raises unless every hyperparameter and flag of `group` is accepted."""
        check(type(self).__name__, self.accepts, group, index)
        if group["fused"] and (reason := unavailable(self.rule_for(group))):
            raise RuntimeError(
                f"{type(self).__name__}{place(index)}: fused=True cannot be had, {reason}; leave fused=None"
            )

    # ---------------------------------------------------------------- checkpoints

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a pickled or loaded state; flags that an older version did not have get their defaults."""
        super().__setstate__(state)
        for name, (_, default) in FLAGS.items():
            self.defaults.setdefault(name, default)
        if "beta" in self.defaults:
            self.defaults.setdefault(CYCLED, True)
        for group in self.param_groups:
            for name, default in self.defaults.items():
                group[name] = read_setting(group.get(name, default), default)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state and the settings, as `torch.optim.Optimizer.state_dict` does, a dtype by its name."""
        with saving(self):
            return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` returned.

        Unlike torch's own, it keeps the dtype of every saved tensor, does not share storage with `state_dict`, and
        refuses the state of another optimizer and hyperparameters that are out of range before anything is changed.

        Args:
            state_dict: The saved state.

        Raises:
            ValueError: If the state is not this optimizer's.
        """
        with loading(self, self._check_saved):
            super().load_state_dict(state_dict)

    def _check_saved(self, state_dict: Mapping[str, Any]) -> None:
        refuse_incomplete(type(self).__name__, state_dict)
        for index, saved in enumerate(state_dict["param_groups"]):
            read = {name: read_setting(value, self.defaults.get(name)) for name, value in saved.items()}
            group = {**self.defaults, **read}
            self._check(group, index)
            # torch itself refuses other numbers of groups or parameters, after this.
            params = self.param_groups[index]["params"] if index < len(self.param_groups) else []
            rule = self.rule_for(group)
            refuse_foreign(type(self).__name__, rule, saved["params"], params, state_dict["state"], _kept_by_others())

    # ---------------------------------------------------------------- the step

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether torch's GradScaler leaves the division by its scale, and the skipping, to the step.

        As for torch's own optimizers with fused=True. On a device the counts must be there too, or it would be waited
        for, and nothing may be learned per tensor, which the kernels do not skip.
        """

        def serves(group: Mapping[str, Any]) -> bool:
            rule = self.rule_for(group)
            on_device = group["capturable"] and not rule.statistics and not rule.memory
            return not rule.taken and all(param.is_cpu or on_device for param in group["params"])

        return all(group["fused"] and serves(group) for group in self.param_groups)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Performs one optimization step.

        Args:
            closure: Computes the loss anew and returns it; optional.

        Returns:
            What `closure` returned.

        Raises:
            RuntimeError: If a gradient is sparse. Nothing has been changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not torch.compiler.is_compiling() and only_wants_state(self):
            self._initialize_all()
            return loss
        scale = loss_scale(self) if not torch.compiler.is_compiling() else UNSCALED
        if scale.found is True:
            return loss
        # Everything that can be refused is refused before the first parameter moves.
        work = [(group, self._ready(index, group)) for index, group in enumerate(self.param_groups)]
        for group, ready in work:
            self.prepare(group)
            with torch.enable_grad() if group["differentiable"] else nullcontext():
                self._step_group(group, *ready, scale)
        return loss

    @torch.no_grad()
    def step_parameter(self, index: int, position: int) -> None:
        """Performs one optimization step of one parameter alone, the same that `step` would; no hook is called.

        Args:
            index: The number of the parameter's group, from 0.
            position: Its position in `optimizer.param_groups[index]["params"]`, from 0.

        Raises:
            RuntimeError: If its gradient is sparse. Nothing has been changed then.
        """
        group = self.param_groups[index]
        ready = self._ready(index, group, [position])
        self.prepare(group)
        self._step_group(group, *ready)

    def _ready(
        self, index: int, group: Mapping[str, Any], positions: Iterable[int] | None = None
    ) -> tuple[list[Tensor], list[Tensor], list[dict[str, Tensor]]]:
        """Returns the parameters of a group, or those at `positions`, that have a gradient, those, and their inputs."""
        if not torch.compiler.is_compiling():
            self._check(group, index)
        candidates = group["params"] if positions is None else [group["params"][position] for position in positions]
        # By identity: a parameter that stands in the group twice is stepped once.
        params = list({id(param): param for param in candidates}.values())
        found = [
            (param, grad)
            for param, grad in zip(params, [param.grad for param in params], strict=True)
            if grad is not None
        ]
        params, grads = [param for param, _ in found], [grad for _, grad in found]
        refuse_tensors(type(self).__name__, group, index, params, grads)
        rule = self.rule_for(group)
        if group["fused"] and (reason := refusal(rule, group, params)):
            raise RuntimeError(
                f"{type(self).__name__}: fused=True cannot step parameter group {index}: {reason}; leave fused=None"
            )
        if not rule.taken:
            return params, grads, []
        names = [functools.partial(name_of, group, index, param) for param in params]
        inputs = [self.inputs(group, param, name) for param, name in zip(params, names, strict=True)]
        return params, grads, inputs

    def _initialize_all(self) -> None:
        """Creates the state of every parameter as it is before its first gradient."""
        for index, group in enumerate(self.param_groups):
            self._check(group, index)
            for param in group["params"]:
                if param.grad is not None:
                    begin(self.rule_for(group), self.start, group, param, self.state[param])

    def _init_group(self, group: Mapping[str, Any]) -> None:
        """Creates what state is missing in a group.

        A method of this name torch's compiler does not trace but calls, so that the first step has the same graph as
        all later ones.
        """
        params = [param for param in group["params"] if param.grad is not None]
        self._complete(group, params, [self.state[param] for param in params])

    def _complete(self, group: Mapping[str, Any], params: list[Tensor], states: list[dict[str, Tensor]]) -> None:
        """Creates what the states of parameters miss before a step."""
        complete(type(self).__name__, self.rule_for(group), self.start, group, params, states)

    def _step_group(
        self,
        group: Mapping[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        inputs: list[dict[str, Tensor]],
        scale: LossScale = UNSCALED,
        rule: Rule | None = None,
    ) -> None:
        """Counts the step and runs the rule, the group's unless another is given, bucket by bucket."""
        if not params:
            return
        compiling = torch.compiler.is_compiling()
        if compiling:
            self._init_group(group)
        # A parameter's hash is computed in Python: its state is looked up once.
        states = [self.state[param] for param in params]
        if not compiling:
            self._complete(group, params, states)
        steps = [state["step"] for state in states]
        counts: Sequence[float | None]
        if group["capturable"] or compiling:
            # A number in the graph would mean a new graph every step.
            torch._foreach_add_(
                steps, 1.0 - scale.found.to(steps[0].device) if isinstance(scale.found, Tensor) else 1.0
            )
            counts = [None] * len(steps)
        else:
            counts = advance(steps)
        rule = rule or self.rule_for(group)
        for count, bucket in buckets(rule, counts, params, grads, states, inputs):
            kept = {name: [state[name] for state in bucket.states] for name in (*rule.statistics, *rule.memory)}
            numbers = Numbers(kept) if kept else None
            scalars = keyword_arguments(self.scalars, rule, group, bucket.states, numbers, count)
            self._run(rule, bucket, scalars, group, numbers, count, scale)

    def _run(
        self,
        rule: Rule,
        bucket: Bucket,
        scalars: Mapping[str, float | list[Any]],
        group: Mapping[str, Any],
        numbers: Numbers | None,
        count: float | None,
        scale: LossScale = UNSCALED,
    ) -> None:
        """Runs the rule on a bucket in the way that is there for it; the arguments are those of `bucket.run`."""
        run(rule, way(rule, group, bucket.params), bucket, scalars, group, numbers, count, scale)


def _kept_by_others() -> set[str]:
    """The names under which the optimizers here and torch's keep state."""
    kinds = [RuleOptimizer]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {name for kind in kinds if hasattr(kind, "rule") for name in kind.rule.state} | TORCHS
