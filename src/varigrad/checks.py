"""What every optimizer here must satisfy, as one function that a rule of your own can be handed to.

Each check is a function that raises AssertionError with what is wrong. They use nothing of an optimizer but what its
users see. The package's own optimizers pass them in its tests, and faults planted on purpose do not.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .engine.groups import FLAGS
from .engine.hyperparameters import Interval, Pair
from .engine.optimizer import RuleOptimizer

__all__ = ["check"]

Transcription = Callable[..., Iterable[Tensor]]
Settings = Mapping[str, Any]

WAYS: dict[str, dict[str, Any]] = {
    "loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "capturable": {"foreach": False, "capturable": True},
}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}
SCALES = (1e-6, 1e-3, 1.0, 1e3)
ELEMENTS, STEPS = 40, 50


def check(
    optimizer: type[RuleOptimizer], transcription: Transcription, settings: Sequence[Settings] = ({},)
) -> tuple[str, ...]:
    """Checks an optimizer against a transcription of its paper, and for the faults that optimizers commonly have.

    The transcription is the judge of the mathematics, so write it from the paper, not from the rule. It is called as
    `transcription(theta, gradients, lr, weight_decay=0.0, **settings)` with a float64 tensor, a list of float64 tensors
    of its shape or None, and a list of learning rates, and gives the parameter after each step. A step whose gradient
    is None leaves the parameter alone and does not count.

    Checked are: displacements, in float64 to 1e-9 and in float32 to 2e-5 of the largest, for gradients of scale 1e-6 to
    1e3, with weight decay, a schedule, and gradients that come late or not at all, in every way there is of running the
    rule; that gradients are read, never written; that a parameter without a gradient, and every element that a NaN is
    not in, stays untouched by it; that hyperparameters of a group are those of that group; that a run resumed from
    `state_dict` is the uninterrupted one to the bit; `maximize`; complex parameters; that NaN, a negative learning rate
    and an unknown argument are refused.

    Args:
        optimizer: The class. A rule with per-tensor statistics couples the elements of a tensor and cannot be checked.
        transcription: The paper's method, as above.
        settings: Hyperparameters to check the mathematics with; one dictionary for each setting.

    Returns:
        The ways that the rule was run in; "fused" is missing where there is no compiled code for the rule.

    Raises:
        AssertionError: If a check fails; the message says which, and by how much.

    Example:
        >>> import varigrad
        >>> from varigrad.extending import check
        >>> def sign_descent(theta, gradients, lr, weight_decay=0.0):
        ...     for rate, gradient in zip(lr, gradients):
        ...         if gradient is not None:
        ...             theta = theta * (1 - rate * weight_decay) - rate * gradient.sign()
        ...         yield theta
        >>> check(varigrad.SSD, sign_descent)[:2]
        ('loop', 'foreach')
    """
    ways = tuple(name for name in WAYS if _available(optimizer, WAYS[name]))
    for setting in settings:
        for way in ways:
            _agrees_with(transcription, optimizer, setting, way)
    for the_check in (
        _gradients_are_read_only,
        _nothing_happens_without_a_gradient,
        _a_nan_stays_where_it_is,
        _groups_have_their_own_hyperparameters,
        _resumes_to_the_bit,
        _maximize_negates_the_gradient,
        _complex_is_two_reals,
        _wrong_arguments_are_refused,
    ):
        the_check(optimizer)
    return ways


# ---------------------------------------------------------------- the mathematics


def _agrees_with(transcription: Transcription, optimizer: type[RuleOptimizer], setting: Settings, way: str) -> None:
    rates = [1e-2 * min(1.0, (step + 1) / 10) * 0.5 ** (step // 20) for step in range(STEPS)]
    for dtype, tolerance in TOLERANCE.items():
        for scale in SCALES if way == "loop" else SCALES[1::2]:
            prompt, late, missing = (_stream(scale, seed, dtype) for seed in range(3))
            late[:9] = [None] * 9
            missing[1::3] = [None] * len(missing[1::3])
            # In float32 a weight of size one has no digits left for its displacement: it starts from zero.
            start = torch.linspace(-1, 1, ELEMENTS).double() if dtype == torch.float64 else torch.zeros(ELEMENTS)
            columns = [prompt, late, missing]
            trails = _trails(optimizer, start.to(dtype), columns, rates, weight_decay=0.1, **setting, **WAYS[way])
            for column, trail in zip(columns, trails, strict=True):
                exact = list(transcription(start.double(), column, rates, weight_decay=0.1, **setting))
                _compare(trail, exact, start.double(), tolerance, f"{optimizer.__name__}({_written(setting)}), {way}")


def _compare(trail: list[Tensor], exact: list[Tensor], start: Tensor, tolerance: float, what: str) -> None:
    for step, (ours, theirs) in enumerate(zip(trail, exact, strict=True), 1):
        way = (theirs - start).abs().max().item()
        error = (ours.double() - theirs).abs().max().item()
        assert error <= tolerance * way, (
            f"{what}, {ours.dtype}: after step {step} the parameter is {error:.2e} from the transcription, "
            f"which has moved it by {way:.2e}; at most {tolerance:g} of that is accepted"
        )


def _stream(scale: float, seed: int, dtype: torch.dtype) -> list[Tensor | None]:
    """Noisy gradients around means of both signs and several sizes, in float64, exact in `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(ELEMENTS, generator=generator) * torch.logspace(-2, 1, ELEMENTS)
    noise = torch.randn(STEPS, ELEMENTS, generator=generator)
    return list((scale * (mean + noise)).to(dtype).double())


def _trails(
    optimizer: type[RuleOptimizer],
    start: Tensor,
    columns: list[list[Tensor | None]],
    rates: list[float],
    **arguments: Any,
) -> list[list[Tensor]]:
    """The way of one parameter for each column of gradients, all stepped by one optimizer."""
    params = [start.clone().requires_grad_() for _ in columns]
    made = _make(optimizer, params, lr=rates[0], **arguments)
    trails: list[list[Tensor]] = [[] for _ in columns]
    for step, rate in enumerate(rates):
        made.param_groups[0]["lr"] = rate
        for param, column in zip(params, columns, strict=True):
            gradient = column[step]
            param.grad = None if gradient is None else gradient.to(param.dtype, copy=True)
        made.step()
        for param, trail in zip(params, trails, strict=True):
            trail.append(param.detach().clone())
    return trails


# ---------------------------------------------------------------- what optimizers get wrong


def _gradients_are_read_only(optimizer: type[RuleOptimizer]) -> None:
    (param,) = params = _parameters(1)
    made = _make(optimizer, params, weight_decay=0.1)
    _feed(params, 0)
    assert param.grad is not None
    before = param.grad.clone()
    made.step()
    assert torch.equal(param.grad, before), f"{optimizer.__name__} has written to a gradient"


def _nothing_happens_without_a_gradient(optimizer: type[RuleOptimizer]) -> None:
    params = _parameters(2)
    made = _make(optimizer, params, weight_decay=0.1)
    _feed(params[:1], 0)
    before = params[1].detach().clone()
    made.step()
    unmoved = torch.equal(params[1].detach(), before) and not made.state[params[1]]
    assert unmoved, f"{optimizer.__name__} has touched a parameter whose gradient is None"


def _a_nan_stays_where_it_is(optimizer: type[RuleOptimizer]) -> None:
    params, clean = _parameters(2), _parameters(2)
    made, plain = _make(optimizer, params), _make(optimizer, clean)
    for step in range(3):
        _feed(params, step)
        _feed(clean, step)
        if step == 1:
            assert params[0].grad is not None
            params[0].grad.view(-1)[0] = math.nan
        made.step()
        plain.step()
    ours, theirs = (torch.cat([param.detach().flatten()[1:] for param in each]) for each in (params, clean))
    assert torch.equal(ours, theirs), f"{optimizer.__name__}: a NaN in one element's gradient has reached others"


def _groups_have_their_own_hyperparameters(optimizer: type[RuleOptimizer]) -> None:
    for name, value in {"lr": 3e-3, "weight_decay": 0.2, **_other_values(optimizer)}.items():
        grouped, alone = _parameters(2), _parameters(2)
        made = _make(optimizer, [{"params": grouped[:1]}, {"params": grouped[1:], name: value}])
        own = [_make(optimizer, alone[:1]), _make(optimizer, alone[1:], **{name: value})]
        late, late_alone = _parameters(1), _parameters(1)
        changed = _make(optimizer, late)
        changed.param_groups[0][name] = value
        early = _make(optimizer, late_alone, **{name: value})
        for step in range(5):
            for params in (grouped, alone, late, late_alone):
                _feed(params, step)
            for one in (made, *own, changed, early):
                one.step()
        assert _same(grouped, alone), f"{optimizer.__name__}: {name} = {value!r} of a parameter group is not followed"
        where = f"{optimizer.__name__}: {name} = {value!r}, written into a group before the first step, is not followed"
        # What else belongs to an lr may be remembered when the optimizer is made, as AdaBayes does.
        assert name == "lr" or _same(late, late_alone), where


def _resumes_to_the_bit(optimizer: type[RuleOptimizer]) -> None:
    params = _parameters(2)
    made = _make(optimizer, params, weight_decay=0.1)
    _run(made, params, range(5))
    copies = [param.detach().clone().requires_grad_() for param in params]
    resumed = _make(optimizer, copies)
    resumed.load_state_dict(made.state_dict())
    for each, own in ((made, params), (resumed, copies)):
        _run(each, own, range(5, 10))
    assert _same(params, copies), f"{optimizer.__name__}: a run resumed from state_dict differs from one that went on"


def _maximize_negates_the_gradient(optimizer: type[RuleOptimizer]) -> None:
    up, down = _parameters(1), _parameters(1)
    makers = _make(optimizer, up, maximize=True), _make(optimizer, down)
    for step in range(5):
        _feed(up, step)
        _feed(down, step)
        assert down[0].grad is not None
        down[0].grad.neg_()
        for made in makers:
            made.step()
    assert _same(up, down), f"{optimizer.__name__}: maximize=True is not descent along the negated gradient"


def _complex_is_two_reals(optimizer: type[RuleOptimizer]) -> None:
    (pair,) = pairs = [torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()]
    number = torch.view_as_complex(pair.detach().clone()).requires_grad_()
    whole, parts = _make(optimizer, [number]), _make(optimizer, pairs)
    for step in range(5):
        _feed(pairs, step)
        assert pair.grad is not None
        number.grad = torch.view_as_complex(pair.grad.clone())
        whole.step()
        parts.step()
    equal = torch.equal(torch.view_as_real(number.detach()), pair.detach())
    assert equal, f"{optimizer.__name__}: a complex parameter is not stepped as its real and imaginary parts"


def _wrong_arguments_are_refused(optimizer: type[RuleOptimizer]) -> None:
    bad: dict[str, Any] = {"lr": -1.0, "weight_decay": -1.0, "an_unknown_argument": 1.0}
    for name, accepted in optimizer.accepts.items():
        bad[name] = (math.nan, math.nan) if isinstance(accepted, Pair) else math.nan
    for name, value in bad.items():
        try:
            _make(optimizer, _parameters(1), **{name: value})
        except (TypeError, ValueError):
            continue
        raise AssertionError(f"{optimizer.__name__} has accepted {name} = {value!r}")


# ---------------------------------------------------------------- small things


def _make(optimizer: type[RuleOptimizer], params: Any, **arguments: Any) -> RuleOptimizer:
    make: Callable[..., RuleOptimizer] = optimizer  # the base class's own signature is another one
    return make(params, **arguments)


def _available(optimizer: type[RuleOptimizer], way: Mapping[str, Any]) -> bool:
    try:
        made = _make(optimizer, params := _parameters(1), **way)
        _run(made, params, range(1))
    except RuntimeError:
        if "fused" not in way:
            raise
        return False
    return True


def _other_values(optimizer: type[RuleOptimizer]) -> dict[str, Any]:
    """A value other than the default for each hyperparameter that is a number between bounds, or a pair of them."""
    values: dict[str, Any] = {}
    for name, parameter in inspect.signature(optimizer).parameters.items():
        accepted, default = optimizer.accepts.get(name), parameter.default
        if isinstance(accepted, Interval) and isinstance(default, (int, float)):
            values[name] = _between(accepted, default)
        elif isinstance(accepted, Pair) and isinstance(accepted.each, Interval):
            values[name] = tuple(_between(accepted.each, value) for value in default)
    return values


def _between(interval: Interval, value: float) -> float:
    """A number of the interval that is not `value`."""
    if math.isinf(interval.high):
        return 2 * value if value else interval.low + 1.0
    return (value + interval.high) / 2 if value < interval.high else (value + interval.low) / 2


def _parameters(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in ((4, 3), (5,))[:count]]


def _feed(params: Iterable[Tensor], step: int) -> None:
    for param in params:
        param.grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(step))


def _run(optimizer: RuleOptimizer, params: list[Tensor], steps: Iterable[int]) -> None:
    for step in steps:
        _feed(params, step)
        optimizer.step()


def _same(mine: Iterable[Tensor], yours: Iterable[Tensor]) -> bool:
    return all(torch.equal(a.detach(), b.detach()) for a, b in zip(mine, yours, strict=True))


def _written(setting: Settings) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in setting.items() if name not in FLAGS)
