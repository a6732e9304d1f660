"""What a rule is, and the functions it may use.

A rule is a pure function of a parameter, its gradient and a few state values, all of them element by element, that
returns the new ones. It uses only `+ - * /`, `abs`, the comparisons `<` and `>`, and the functions of this file, so
that the same function can be run on tensors, on lists of tensors, or traced and compiled:

    @rule(state=("mean",))
    def momentum(param, grad, mean, *, lr, beta):
        mean = beta * mean + (1.0 - beta) * grad
        return param - lr * mean, mean
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .trace import ELEMENT, NUMBER, TENSOR, Symbol, Trace

__all__ = ["SKIPPED", "Rule", "copysign", "hypotenuse", "maximum", "minimum", "rule", "sign", "sqrt", "where"]


SKIPPED = "skipped"
"""The number by which a kernel on a device is told, where it is not zero, to leave a tensor alone."""

RESERVED = ("maximize", "decay", "direction", SKIPPED)
"""What every rule is called with besides its own arguments; the last two by the compiled kernels."""


def _apply(operation: str, *arguments: Any) -> Any:
    for argument in arguments:
        if isinstance(argument, Symbol):
            return argument.tracer.record(operation, *arguments)
    # Imported here alone, because the kernels are generated where torch may not be installed.
    from .operations import evaluate

    return evaluate(operation, *arguments)


def sqrt(x: Any) -> Any:
    """Returns the square root of `x >= 0`."""
    return _apply("sqrt", x)


def sign(x: Any) -> Any:
    """Returns -1, 0 or 1; the sign of zero is zero, so that an unused weight does not drift."""
    return _apply("sign", x)


def copysign(x: Any, y: Any) -> Any:
    """Returns the element-wise `x` with the sign of the element-wise `y`; a zero has one too."""
    return _apply("copysign", x, y)


def maximum(x: Any, low: Any) -> Any:
    """Returns the larger of the element-wise `x` and the element-wise or scalar `low`; a NaN stays one."""
    return _apply("maximum", x, low)


def minimum(x: Any, high: Any) -> Any:
    """Returns the smaller of the element-wise `x` and the element-wise or scalar `high`; a NaN stays one."""
    return _apply("minimum", x, high)


def where(condition: Any, x: Any, y: Any) -> Any:
    """Returns `x` where the comparison `condition` holds and `y` elsewhere.

    Raises:
        TypeError: If the condition differs between elements and neither `x` nor `y` does: two numbers do not say in
            which precision they are meant.
    """
    kinds = [value.kind if isinstance(value, Symbol) else NUMBER for value in (condition, x, y)]
    if kinds[0] == ELEMENT and ELEMENT not in kinds[1:]:
        raise TypeError(f"where needs a value for each element on one side at least, not {x!r} and {y!r}")
    return _apply("where", condition, x, y)


def hypotenuse(x: Any, y: Any) -> Any:
    """Returns √(x² + y²) without squaring, so that nothing overflows or vanishes that need not."""
    large, small = maximum(abs(x), abs(y)), minimum(abs(x), abs(y))
    ratio = where(large > 0, small / large, 0.0)
    return large * sqrt(1.0 + ratio * ratio)


@dataclass(frozen=True, eq=False)
class Rule:
    """A rule and the names of what goes in and out of it; made by `rule`.

    Attributes:
        name: The name of the function.
        function: The rule itself.
        state: The names of its state tensors, which are shaped like the parameter.
        statistics: The names of its per-tensor statistics: the rule returns an expression for each, element by
            element, and the engine keeps its sum over the tensor.
        memory: The names of what else is kept per tensor: a scalar that the optimizer's `scalars` computes from
            statistics, and hands to the rule and to the next step.
        keywords: The names of its scalar arguments.
        optional: The names of further element-wise arguments that are None unless the rule is told to take them.
        taken: The names of the further element-wise arguments that it does take.
    """

    name: str
    function: Callable[..., Any]
    state: tuple[str, ...]
    statistics: tuple[str, ...]
    memory: tuple[str, ...]
    keywords: tuple[str, ...]
    optional: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()

    @functools.cache  # noqa: B019 - rules live as long as the program
    def taking(self, *names: str) -> Rule:
        """Returns the variant of the rule that takes these optional arguments, known as `rule_name`."""
        return replace(self, name="_".join((self.name, *names)), taken=names)

    @property
    def elements(self) -> tuple[str, ...]:
        """The names of the element-wise arguments, in order."""
        return ("param", "grad", *self.state, *self.taken)

    @property
    def results(self) -> tuple[str, ...]:
        """The names of what the rule returns, in order."""
        return ("param", *self.state, *self.statistics)

    def __call__(
        self, param: Any, grad: Any, *others: Any, maximize: bool = False, decay: Any = None, **scalars: Any
    ) -> tuple[Any, ...]:
        """Runs the rule once, with what every optimizer shares around it.

        Args:
            param: The parameter.
            grad: Its gradient.
            *others: The state values, in the order of `state`, and the optional arguments that are taken.
            maximize: Climb instead of descend.
            decay: The factor 1 - lr * weight_decay that shrinks the parameter before the update, as in AdamW
                (Loshchilov and Hutter 2019); None leaves it alone.
            **scalars: The rule's own keyword arguments.

        Returns:
            The new parameter, the new state values and the statistics, in the order of `results`.

        Raises:
            TypeError: If the function returns anything else.
        """
        if maximize:
            grad = -grad
        if decay is not None:
            param = param * decay
        state, optional = others[: len(self.state)], others[len(self.state) :]
        given = dict(zip(self.taken, optional, strict=True))
        results: tuple[Any, ...] = self.function(param, grad, *state, **given, **scalars)
        if not isinstance(results, tuple) or len(results) != len(self.results):
            what = f"{len(results)} values" if isinstance(results, tuple) else f"one {type(results).__name__}"
            wanted = ", ".join(self.results) + ("," if len(self.results) == 1 else "")
            raise TypeError(f"rule {self.name} must return the tuple ({wanted}), it returned {what}")
        return results

    @functools.cache  # noqa: B019 - rules live as long as the program
    def trace(self, maximize: bool, decays: bool, per_tensor: frozenset[str] = frozenset()) -> Trace:
        """Returns the graph of the rule with these settings.

        Args:
            maximize: As in `__call__`.
            decays: Whether the parameter is decayed.
            per_tensor: The keywords whose value differs between the tensors of one call.
        """
        keywords = (*self.keywords, "decay") if decays else self.keywords
        kinds = {name: TENSOR if name in per_tensor else NUMBER for name in keywords}
        return Trace.of(functools.partial(self, maximize=maximize), self.elements, kinds, self.results)


def rule(
    state: tuple[str, ...],
    statistics: tuple[str, ...] = (),
    memory: tuple[str, ...] = (),
    inputs: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], Rule]:
    """Turns a function into a `Rule`.

    Args:
        state: The names of the state tensors; the function's positional arguments are `param`, `grad` and these.
        statistics: The names of the per-tensor statistics that the function returns after the new state.
        memory: The names of the further per-tensor scalars that the optimizer carries from step to step.
        inputs: The names of the element-wise keyword arguments beside the gradient.
        optional: The names of those whose default is None; see `Rule.taking`.

    Raises:
        TypeError: If the function's positional arguments are not the ones promised, or it has arguments without a name
            or with one that is reserved.

    Example:
        >>> from varigrad.engine.rule import rule
        >>> @rule(state=())
        ... def gradient_descent(param, grad, *, lr):
        ...     return (param - lr * grad,)
        >>> gradient_descent(1.0, 0.5, lr=0.1)
        (0.95,)
    """

    def decorate(function: Callable[..., Any]) -> Rule:
        parameters = inspect.signature(function).parameters.values()
        positional = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
        if positional != ("param", "grad", *state):
            wanted = ", ".join(("param", "grad", *state))
            raise TypeError(f"rule {function.__name__} must take ({wanted}, *, …), it takes {positional}")
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.name in RESERVED:
                raise TypeError(f"rule {function.__name__} must not have an argument {parameter.name!r}")
        keywords = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in (*inputs, *optional))
        return Rule(function.__name__, function, state, statistics, memory, keywords, optional, inputs)

    return decorate
