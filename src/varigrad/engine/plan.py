"""Turning a trace into a list of calls on whole tensors: few of them, and cheap ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from .operations import OPERATIONS
from .trace import ELEMENT, NUMBER, TENSOR, Symbol, Trace

__all__ = ["COMMUTATIVE", "FUSED", "Call", "Plan"]

COMMUTATIVE = frozenset(("add", "mul", "maximum", "minimum"))
"""The operations whose operands may be swapped."""

FUSED = ("addcmul", "addcdiv")
"""The kernels that multiply or divide, scale and add in one call."""


@dataclass
class Call:
    """One line of a plan. Values are known by their slots, numbered from 0.

    Attributes:
        kernel: An operation, or one of `FUSED`.
        arguments: The slots of the operands.
        result: The slot of the result.
        overwrites: The position of the operand that the result is written over; None where it gets memory of its own.
        keyword: `alpha` or `value` where the kernel takes a scale.
        scale: The slot of that scale.
        dying: The slots that no later call reads.
    """

    kernel: str
    arguments: tuple[int, ...]
    result: int
    overwrites: int | None = None
    keyword: str = ""
    scale: int = 0
    dying: tuple[int, ...] = ()


@dataclass
class _Choice:
    """A kernel chosen for a node, in terms of symbols."""

    node: Symbol
    kernel: str
    arguments: tuple[Symbol | float, ...]
    keyword: str = ""
    scale: Symbol | float = 1.0
    dying: set[int] = field(default_factory=set)
    overwrites: int | None = None

    def targets(self) -> Iterator[tuple[int, Symbol]]:
        """The operands that die here, with their positions, that the kernel has an in-place form for."""
        if self.kernel in FUSED or OPERATIONS[self.kernel].foreach is not None:
            for position in (0, 1) if self.kernel in COMMUTATIVE and not self.keyword else (0,):
                argument = self.arguments[position]
                # A number per tensor cannot hold one per element.
                if isinstance(argument, Symbol) and argument.kind == ELEMENT and id(argument) in self.dying:
                    yield position, argument


class Plan:
    """The calls that compute a trace on lists of tensors.

    Attributes:
        trace: The graph.
        owned: The inputs that have a new value among the results, and whose storage may be written over.
        inputs: The slot of each input by name.
        constants: The plain numbers by slot.
        numbers: The operations on numbers, in order: operation, slots of the operands, slot of the result.
        calls: The operations on tensors, in order.
        results: The slot of each result by name.
        slots: How many slots there are.
    """

    def __init__(self, trace: Trace, owned: tuple[str, ...]) -> None:
        self.trace = trace
        self.owned = owned
        choices, numbers = _choose(trace)
        _place(choices, trace, owned)
        self._slots: dict[int | float, int] = {}
        self.constants: dict[int, float] = {}
        self.inputs = {name: self._slot(symbol) for name, symbol in trace.inputs.items()}
        self.numbers = [(n.operation, tuple(map(self._slot, n.arguments)), self._slot(n)) for n in numbers]
        self.calls = [
            Call(
                choice.kernel,
                tuple(map(self._slot, choice.arguments)),
                self._slot(choice.node),
                choice.overwrites,
                choice.keyword,
                self._slot(choice.scale),
                tuple(self._slots[key] for key in choice.dying),
            )
            for choice in choices
        ]
        self.results = {name: self._slot(symbol) for name, symbol in trace.results.items()}
        self.slots = len(self._slots)

    def _slot(self, value: Symbol | float) -> int:
        key = id(value) if isinstance(value, Symbol) else float(value)
        slot = self._slots.setdefault(key, len(self._slots))
        if not isinstance(value, Symbol):
            self.constants[slot] = value
        return slot


def _kind(value: Symbol | float) -> int:
    return value.kind if isinstance(value, Symbol) else NUMBER


def _choose(trace: Trace) -> tuple[list[_Choice], list[Symbol]]:
    """Chooses a kernel for each node that is not absorbed into the only call that uses it.

    Returns:
        The choices in order, and the nodes that are numbers, among them scales that had to be negated.
    """
    uses = Counter(id(argument) for node in trace.nodes for argument in node.arguments)
    uses.update(id(value) for value in trace.results.values())
    absorbed: set[int] = set()

    def operands(value: Symbol | float) -> tuple[Symbol | float, ...]:
        """The operands of a product or quotient that is used here alone; none for anything else."""
        if not isinstance(value, Symbol) or value.kind != ELEMENT or value.operation not in ("mul", "div"):
            return ()
        return value.arguments if uses[id(value)] == 1 and TENSOR not in map(_kind, value.arguments) else ()

    def fuse(node: Symbol, base: Symbol | float, term: Symbol | float) -> _Choice | None:
        """`base ± term` as one call, where `term` is a product, a quotient, or a number times anything."""
        parts = operands(term)
        if _kind(base) != ELEMENT or not parts or not isinstance(term, Symbol):
            return None
        scale: Symbol | float = 1.0
        taken = [term]
        if NUMBER in map(_kind, parts):
            if term.operation == "div":
                return None
            scale, scaled = sorted(parts, key=_kind)
            parts = operands(scaled)
            if not parts or NUMBER in map(_kind, parts) or not isinstance(scaled, Symbol):
                absorbed.add(id(term))
                return _Choice(node, node.operation, (base, scaled), "alpha", scale)
            taken.append(scaled)
        absorbed.update(map(id, taken))
        kernel = f"addc{taken[-1].operation}"
        return _Choice(node, kernel, (base, *parts), "value", -scale if node.operation == "sub" else scale)

    choices = []
    for node in reversed(trace.nodes):
        if node.kind == NUMBER or id(node) in absorbed:
            continue
        choice = None
        if node.kind == ELEMENT and node.operation in ("add", "sub"):
            first, second = node.arguments
            choice = fuse(node, first, second) or (fuse(node, second, first) if node.operation == "add" else None)
        choices.append(choice or _Choice(node, node.operation, node.arguments))
    numbers = [node for node in trace.nodes if node.kind == NUMBER]
    known = {id(node) for node in numbers}
    for choice in choices:
        scale = choice.scale
        if isinstance(scale, Symbol) and scale.operation == "neg" and id(scale) not in known:
            numbers.append(scale)
            known.add(id(scale))
    return choices[::-1], numbers


def _place(choices: list[_Choice], trace: Trace, owned: tuple[str, ...]) -> None:
    """Decides for each call which values die there and whether its result is written over one of them."""
    needed = {id(value) for value in trace.results.values()}
    for choice in reversed(choices):
        read = {id(argument) for argument in (*choice.arguments, choice.scale) if isinstance(argument, Symbol)}
        choice.dying = read - needed
        needed |= read
    by_node = {id(choice.node): choice for choice in choices}

    def settle(value: Symbol, name: str) -> bool:
        """Lays the calls that lead from the input `name` to `value` into that input's storage, if any do."""
        if value.operation == "input":
            return value.name == name
        choice = by_node[id(value)]
        if choice.overwrites is None:
            for position, argument in choice.targets():
                if settle(argument, name):
                    choice.overwrites = position
                    return True
        return False

    for name in owned:
        settle(trace.results[name], name)
    for choice in choices:
        if choice.overwrites is None:
            temporaries = (position for position, argument in choice.targets() if argument.operation != "input")
            choice.overwrites = next(temporaries, None)
