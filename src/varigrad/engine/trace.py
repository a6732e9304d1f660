"""A rule seen as a graph: what every way but the plain loop is generated from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

__all__ = ["ELEMENT", "NUMBER", "TENSOR", "Symbol", "Trace", "Tracer"]

# What a value is one of: a number for the whole bucket, one number per tensor, or one per element of each tensor.
# The order matters: an operation's result is of the widest kind among its arguments.
NUMBER, TENSOR, ELEMENT = range(3)


@dataclass(frozen=True, eq=False)
class Symbol:
    """A value inside a rule while it is being traced; arithmetic on it writes the graph.

    Attributes:
        operation: A key of `OPERATIONS`, or `"input"` for a leaf.
        arguments: The operands, symbols or plain numbers; a leaf has none.
        kind: `NUMBER`, `TENSOR` or `ELEMENT`.
        name: The name of a leaf, empty otherwise.
    """

    tracer: Tracer = field(repr=False)
    operation: str
    arguments: tuple[Symbol | float, ...]
    kind: int
    name: str = ""

    def __add__(self, other: Symbol | float) -> Symbol:
        return self.tracer.record("add", self, other)

    def __radd__(self, other: float) -> Symbol:
        return self.tracer.record("add", other, self)

    def __sub__(self, other: Symbol | float) -> Symbol:
        return self.tracer.record("sub", self, other)

    def __rsub__(self, other: float) -> Symbol:
        return self.tracer.record("sub", other, self)

    def __mul__(self, other: Symbol | float) -> Symbol:
        return self.tracer.record("mul", self, other)

    def __rmul__(self, other: float) -> Symbol:
        return self.tracer.record("mul", other, self)

    def __truediv__(self, other: Symbol | float) -> Symbol:
        return self.tracer.record("div", self, other)

    def __rtruediv__(self, other: float) -> Symbol:
        return self.tracer.record("div", other, self)

    def __neg__(self) -> Symbol:
        return self.tracer.record("neg", self)

    def __abs__(self) -> Symbol:
        return self.tracer.record("abs", self)

    def __gt__(self, other: Symbol | float) -> Symbol:
        return self.tracer.record("greater", self, other)

    def __lt__(self, other: Symbol | float) -> Symbol:
        return self.tracer.record("less", self, other)

    def __eq__(self, other: object) -> bool:
        raise TypeError("a rule cannot ask whether two values are equal: compare with < or >")

    # Written out, because Python takes it away where __eq__ is defined.
    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise TypeError("a rule cannot branch on a value: use where(condition, x, y) instead of if")

    def __pow__(self, other: object) -> Symbol:
        raise TypeError("a rule cannot take powers: write x * x for a square, sqrt(x) for a root")

    def __getattr__(self, name: str) -> Symbol:
        if name.startswith("__"):  # asked for by Python itself
            raise AttributeError(name)
        raise TypeError(
            f"a rule cannot use .{name} of a value, which need not be a tensor: it is made of + - * / < > abs and the "
            "functions that varigrad.extending has"
        )


class Tracer:
    """Records each distinct operation once, so that a repeated subexpression is computed once."""

    def __init__(self) -> None:
        self.nodes: list[Symbol] = []
        self._recorded: dict[tuple[object, ...], Symbol] = {}

    def input(self, name: str, kind: int) -> Symbol:
        """Returns the leaf called `name`."""
        return Symbol(self, "input", (), kind, name)

    def record(self, operation: str, *arguments: Symbol | float) -> Symbol:
        """Returns the symbol for `operation` on `arguments`, the one recorded before where there is one."""
        # A leaf or node is known by its identity; a plain number by value and type.
        key = (operation, *(id(a) if isinstance(a, Symbol) else (type(a), a) for a in arguments))
        if key not in self._recorded:
            kind = max(a.kind if isinstance(a, Symbol) else NUMBER for a in arguments)
            self._recorded[key] = Symbol(self, operation, arguments, kind)
            self.nodes.append(self._recorded[key])
        return self._recorded[key]


@dataclass(frozen=True)
class Trace:
    """The graph of a rule: its leaves by name, its nodes in an order in which they can be computed, its results.

    Attributes:
        inputs: The leaves by name.
        nodes: Every operation that a result needs, arguments before uses.
        results: What the rule returns, by the name of the tensor or statistic it is for.
    """

    inputs: dict[str, Symbol]
    nodes: tuple[Symbol, ...]
    results: dict[str, Symbol]

    @classmethod
    def of(
        cls,
        function: Callable[..., Iterable[object]],
        elements: tuple[str, ...],
        scalars: dict[str, int],
        results: tuple[str, ...],
    ) -> Trace:
        """Calls `function` on symbols and returns the graph it wrote.

        Args:
            function: Takes the `elements` in order and the `scalars` by keyword; returns one value per result.
            elements: The names of the values that have one entry per element.
            scalars: The kind, `NUMBER` or `TENSOR`, of each keyword argument.
            results: The names of what `function` returns, in order.

        Raises:
            TypeError: If a result is not an element-wise expression of the inputs.
        """
        tracer = Tracer()
        inputs = {name: tracer.input(name, ELEMENT) for name in elements}
        keywords = {name: tracer.input(name, kind) for name, kind in scalars.items()}
        values: dict[str, Symbol] = {}
        for name, value in zip(results, function(*inputs.values(), **keywords), strict=True):
            if not isinstance(value, Symbol) or value.kind != ELEMENT:
                raise TypeError(f"the rule's result {name!r} must be computed element by element, got {value!r}")
            values[name] = value
        needed = {id(value) for value in values.values()}
        for node in reversed(tracer.nodes):
            if id(node) in needed:
                needed.update(id(argument) for argument in node.arguments)
        return cls(inputs | keywords, tuple(n for n in tracer.nodes if id(n) in needed), values)
