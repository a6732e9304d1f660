"""Whole state dicts: AdamW's in, that of an optimizer here out."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from varigrad.convert import adam
from varigrad.convert.targets import TARGETS, Target
from varigrad.engine.hyperparameters import OneOf, OrNone, Switch
from varigrad.engine.optimizer import RuleOptimizer

__all__ = ["convert_state"]

# The keys of a group that hold a learning rate, or a bound that a scheduler keeps for it.
RATES = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")
# As in the rules: a variance that float32 can hold with something added to it.
LARGEST = 1e37


def convert_state(
    state_dict: Mapping[str, Any],
    to: str | type[RuleOptimizer] | RuleOptimizer = "vsgd",
    *,
    variances: str = "step",
    match_lr: bool | None = None,
) -> dict[str, Any]:
    r"""Converts the state dict of torch's AdamW or Adam into that of an optimizer here.

    A job that AdamW has trained so far goes on with another optimizer, which begins with what AdamW has learned. With
    m = exp_avg / (1-β₁^t), v = exp_avg_sq / (1-β₂^t) and w = 1-β₁:

        all but SSD            mean = m                  exact; times batch_size for AdaBayes
        VSGD                   v_o = (v - m²) / w        with v_g = v_o w / (1-w), so that the gain is w
        ConstantVSGD           v   = (v - m²) / w        with variance_ratio = β₁ / (1-β₁), so that the gain is w
        AdaptiveVSGD           deviation = √((v - m²)/w) with the gain w, which is learned from there
        SVAG, MSVAG, AdamStar  deviation = √(v - m²)     exact where β₁ = β₂
        AdaBayesFP             mean_square = v           exact
        AdaBayes               posterior_var             its fixed point for gradients of the mean square v

    So VSGD, ConstantVSGD and AdaptiveVSGD begin with σ² = v - m², and √(μ² + σ²) is AdamW's √v: the next step is
    AdamW's, at the same learning rate. That takes variances above those of the noise in the gradient, towards which
    they go from there at the pace of VSGD's own averaging. `variances="noise"` begins with those of the noise, where
    VSGD itself comes to rest; steps are longer then, by up to 1/√w where noise dominates, for which the learning rate
    is lowered. With the shape a of Eq. 17 or 36:

        E = E[(g - m)²] = (v - m²) (1-β₁^(t+1)) / (β₁ - β₁^t)           Eq. 20 to 22 of "Dissecting Adam"
        VSGD           v_o = ((1-w)² E + 2Kγ) / (2a - w)                with v_g as above
        ConstantVSGD   v   = ((1-w) E + 2γ) / (2a - 1)
        AdaptiveVSGD           deviation = √((1-w) E)

    With "step" the least that the prior adds to a variance in one step, ρ₂ K γ / a or ρ γ / a, comes on top. The page
    "Moving a running job over from AdamW" of the documentation has the measurements.

    Learning rate, weight decay, `maximize`, the names of parameters and whatever schedulers and you have noted in the
    groups are kept, and β₁, β₂ and eps where they mean the same; `foreach`, `fused` and `differentiable` are the new
    optimizer's. Every parameter's steps are counted on; one that AdamW has not stepped yet begins anew. State is
    float32, or float64 where AdamW's is. The argument is not changed and shares no storage with the result.

    Args:
        state_dict: What `state_dict()` of `torch.optim.AdamW` or `torch.optim.Adam` returned, with amsgrad or not; the
            maximum that amsgrad keeps serves `match_lr` only.
        to: The optimizer that is to load the result: its name ("vsgd", "constant-vsgd", "adaptive-vsgd", "adabayes",
            "adabayes-fp", "svag", "msvag", "adam-star", "msgd", "ssd", "mssd"), its class, or itself, which is read and
            not changed, where hyperparameters differ from the defaults.
        variances: "step" or "noise", for VSGD, ConstantVSGD and AdaptiveVSGD.
        match_lr: Whether to multiply every learning rate of a group, and divide its weight decay, by the factor that
            makes the root mean square of its next step that of AdamW's, for a gradient that is its mean. None does so
            wherever the method itself does not see to that: not for AdaBayes and AdaBayesFP, whose rate is AdamW's, nor
            for VSGD and its kin with `variances="step"`. A scheduler that remembers rates of its own
            (`base_lrs`) has to be told.

    Returns:
        A state dict for `load_state_dict` of the new optimizer.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the state is broken or another optimizer's; if its weight decay is that of Adam, which is part
            of the gradient; if β₁ is 0, for VSGD and its kin; or if an argument is not accepted.

    Warns:
        UserWarning: If the gradients are so small that VSGD's prior makes its steps less than half as long as AdamW's.

    Reference:
        Balles and Hennig 2018: Dissecting Adam, Eq. 20 to 22. Chen, Kuzina, Esmaeili, Tomczak: Variational Stochastic
        Gradient Descent for Deep Neural Networks, Eq. 15 to 24 and 34 to 38. Aitchison 2020, Eq. 17 to 21.

    Example:
        >>> import torch, varigrad
        >>> model = torch.nn.Linear(3, 1)
        >>> adamw = torch.optim.AdamW(model.parameters(), lr=1e-2)
        >>> for step in range(20):
        ...     adamw.zero_grad()
        ...     model(torch.randn(8, 3)).square().mean().backward()
        ...     adamw.step()
        >>> optimizer = varigrad.VSGD(model.parameters())
        >>> optimizer.load_state_dict(varigrad.convert_state(adamw.state_dict(), to=optimizer))
        >>> optimizer.param_groups[0]["lr"], optimizer.state[model.weight]["step"]
        (0.01, tensor(20.))
    """
    OneOf(("step", "noise")).check("convert_state's variances", variances)
    OrNone(Switch()).check("convert_state's match_lr", match_lr)
    target, optimizer = _target(to)
    name = target.kind.__name__
    if variances == "noise" and target.for_noise is None:
        kinds = "VSGD, ConstantVSGD and AdaptiveVSGD"
        raise ValueError(f"convert_state's variances = 'noise' is for {kinds}, not for {name}")
    if match_lr and target.same_rate:
        raise ValueError(f"convert_state's match_lr = True is not for {name}, whose lr means what AdamW's does")
    adam.check(state_dict)
    saved_groups = state_dict["param_groups"]
    own = optimizer.param_groups if optimizer is to else optimizer.param_groups * len(saved_groups)
    if len(own) != len(saved_groups):
        raise ValueError(
            f"the state dict has {len(saved_groups)} parameter groups, the optimizer given as convert_state's to has "
            f"{len(own)}: give it the same ones"
        )
    convert = target.for_noise if variances == "noise" and target.for_noise else target.state
    if match_lr is None:
        match_lr = variances == "noise" or not (target.for_noise or target.same_rate)
    result: dict[str, Any] = {"state": {}, "param_groups": []}
    for index, (saved, settings) in enumerate(zip(saved_groups, own, strict=True)):
        if target.for_noise and float(saved["betas"][0]) == 0:
            raise ValueError(
                f"betas[0] = 0 of parameter group {index} is not accepted for {name}: where no gradient is averaged "
                "with the ones before it, its variance cannot be told from its mean"
            )
        group = _group(
            target,
            saved,
            {key: settings[key] for key in optimizer.defaults if key in settings},
            carry=optimizer is not to,
        )
        lengths = _Lengths()
        for key in saved["params"]:
            held = state_dict["state"].get(key, {})
            moments = adam.read(held, saved)
            if moments is None:
                continue
            state = convert(moments, optimizer, group)
            if match_lr or target.for_noise:
                lengths.add_adams(moments)
            if match_lr:
                lengths.next += _square_sum(_next_step(optimizer, group, moments, state))
            if target.for_noise:
                rest = target.for_noise(moments, optimizer, group)
                lengths.at_rest += _square_sum(_next_step(optimizer, group, moments, rest))
            step_device = held["exp_avg"].device if group["capturable"] else "cpu"
            step = torch.tensor(moments.step, dtype=torch.float32, device=step_device)
            result["state"][key] = {"step": step, **_stored(state, held["exp_avg"].dtype)}
        if target.for_noise and lengths.at_rest < 0.25 * lengths.bounded:
            _warn_of_prior(name, index, math.sqrt(lengths.at_rest / lengths.bounded))
        if match_lr and lengths.adams > 0 and lengths.next > 0:
            _scale(group, math.sqrt(lengths.adams / lengths.next))
        result["param_groups"].append(group)
    return result


@dataclass
class _Lengths:
    """Sums, over the weights of a group, of the square of a step over the learning rate.

    Attributes:
        adams: AdamW's next step.
        bounded: The same, no weight's above the learning rate, as with VSGD.
        next: The new optimizer's next step.
        at_rest: Its step where its variances have come to rest.
    """

    adams: float = 0.0
    bounded: float = 0.0
    next: float = 0.0
    at_rest: float = 0.0

    def add_adams(self, moments: adam.Moments) -> None:
        """Adds what AdamW does with the next gradient, if that is the mean of the last."""
        # Without eps a weight that has never had a gradient is at 0/0.
        step = (moments.mean / moments.root).nan_to_num(0.0)
        self.adams += _square_sum(step)
        self.bounded += _square_sum(step.clamp(-1.0, 1.0))


def _square_sum(tensor: Tensor) -> float:
    return tensor.square().sum().item()


def _target(to: object) -> tuple[Target, RuleOptimizer]:
    """Returns the row of an optimizer, and the optimizer, or one with the defaults."""
    if isinstance(to, str):
        if (row := TARGETS.get(to.replace("_", "-"))) is None:
            raise ValueError(f"convert_state's to = {to!r} is not accepted: it must be one of {', '.join(TARGETS)}")
        kind = row.kind
    else:
        kind = to if isinstance(to, type) else type(to)
        rows = [row for row in TARGETS.values() if issubclass(kind, row.kind)]
        if not rows:
            names = ", ".join(row.kind.__name__ for row in TARGETS.values())
            raise TypeError(
                f"convert_state's to = {kind.__name__} is not accepted: it must be one of {names}, its name, or an "
                "optimizer of that class"
            )
        (row,) = rows
    optimizer = to if isinstance(to, RuleOptimizer) else kind([torch.zeros(1)])  # type: ignore[call-arg]
    for index, group in enumerate(optimizer.param_groups):
        if not set(row.states) >= set(optimizer.rule_for(group).state):
            raise ValueError(
                f"convert_state's to has variance = {group['variance']!r} in parameter group {index}, which is not "
                f"accepted: AdamW knows nothing of the variance inside a mini-batch; move over to "
                f"{row.kind.__name__} with variance='stream'"
            )
    return row, optimizer


def _group(target: Target, saved: Mapping[str, Any], settings: dict[str, Any], carry: bool) -> dict[str, Any]:
    """Returns the parameter group of the new optimizer.

    Args:
        target: The new optimizer's row.
        saved: Adam's group.
        settings: The new optimizer's hyperparameters and flags.
        carry: Whether `settings` are defaults, so that Adam's choices count.
    """
    beta1, beta2 = map(float, saved["betas"])
    kept = {key: value for key, value in saved.items() if key not in adam.GROUP_KEYS and key != "params"}
    group = copy.deepcopy({**kept, **settings, "lr": saved["lr"]})
    group |= target.settings(beta1, beta2, float(saved["eps"]))
    group |= {"weight_decay": saved["weight_decay"], "maximize": saved.get("maximize", False)}
    if carry:
        group["capturable"] = saved.get("capturable", False)
        if "reference_lr" in group:
            group["reference_lr"] = float(saved.get("initial_lr", saved["lr"])) or None
    group["params"] = list(saved["params"])
    return group


def _next_step(
    optimizer: RuleOptimizer, group: dict[str, Any], moments: adam.Moments, state: Mapping[str, Tensor]
) -> Tensor:
    """Returns the new optimizer's next step over its learning rate, if the next gradient is the mean of the last."""
    rule = optimizer.rule_for(group)
    memory = {name: state[name] for name in (*rule.statistics, *rule.memory)}
    scalars = optimizer.scalars(moments.step + 1, {**group, "lr": 1.0}, memory)
    scalars = {name: scalars[name] for name in rule.keywords}
    weight, gradient = torch.zeros_like(moments.mean), moments.mean
    step, *_ = rule.function(weight, gradient, *(state[name] for name in rule.state), **scalars)
    return cast("Tensor", step)


def _stored(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns state in the dtype and form in which an optimizer keeps it for a parameter of a dtype."""
    kept = torch.promote_types(dtype, torch.float32)
    stored = {}
    for name, value in state.items():
        value = value if name == "mean" else value.clamp(max=LARGEST)
        value = value.to(kept.to_real())
        # What belongs to the tensor as a whole is a real number.
        stored[name] = torch.view_as_complex(value.contiguous()) if kept.is_complex and value.dim() else value
    return stored


def _scale(group: dict[str, Any], factor: float) -> None:
    """Multiplies the learning rates of a group and leaves what a step takes off a weight as it is."""
    for key in RATES:
        if key in group:
            group[key] = group[key] * factor
    group["weight_decay"] /= factor


def _warn_of_prior(name: str, index: int, ratio: float) -> None:
    warnings.warn(
        f"the gradients of parameter group {index} are small against {name}'s prior, which will make its steps "
        f"{ratio:.2g} times as long as AdamW's: give convert_state, as to, an optimizer with a lower prior_strength",
        stacklevel=3,
    )
