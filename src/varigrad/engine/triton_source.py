"""A rule's trace as the source of a Triton kernel: one pass over memory, one launch for all tensors of a bucket.

This file only writes text, and needs neither torch nor Triton.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from .c import random_part, trace
from .rule import SKIPPED, Rule
from .trace import ELEMENT, NUMBER, Symbol

__all__ = ["NEAREST", "Variant", "source"]

NEAREST = -1
"""In the place of a lane: the array is not rounded stochastically."""

# What stands for each operation. Triton's own division and root of float32 are approximations, and so are not used; its
# minus subtracts from zero, which loses the sign of a zero.
_EXPRESSIONS = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "neg": "{0} * -1.0",
    "sqrt": "tl.sqrt({0})",
    "abs": "tl.abs({0})",
    "copysign": "copysign({0}, {1})",
    "sign": "({0} > 0.0).to({t}) - ({0} < 0.0).to({t})",
    # A NaN on the left compares false and is passed on; one on the right is looked for.
    "maximum": "tl.where({0} < {1}, {1}, tl.where({1} != {1}, {1}, {0}))",
    "minimum": "tl.where({0} > {1}, {1}, tl.where({1} != {1}, {1}, {0}))",
    "greater": "{0} > {1}",
    "less": "{0} < {1}",
    "where": "tl.where({0}, {1}, {2})",
}
_SINGLE = {**_EXPRESSIONS, "div": "tl.div_rn({0}, {1})", "sqrt": "tl.sqrt_rn({0})"}

_KERNEL = '''\
"""{name}, computed in {width}.

`table` holds, as 64 bits each: the addresses of every array of every tensor, with the arrays
{arrays};
the numbers that all tensors share, and the step. `layout` holds for every tensor its size, its first element within the
whole parameter and its first program. `columns` holds the numbers that each tensor has of its own.
"""

import triton
import triton.language as tl

from varigrad.engine.triton_storage import {shared}


@triton.jit
def {function}_block(table, layout, columns, steps, partial, tensors, programs, program, owner, start, mask, lanes,
        ALIGNED: tl.constexpr):
{addresses}{numbers}{body}

@triton.jit(do_not_specialize=["tensors", "programs"])
def {function}(table, owners, layout, columns, steps, partial, tensors, programs, ALIGNED: tl.constexpr,
        BLOCK: tl.constexpr):
    program = tl.program_id(0)
    owner = tl.load(owners + program).to(tl.int64)
    start = (program - tl.load(layout + 2 * tensors + owner)) * BLOCK
    left = tl.load(layout + owner) - start
{skipping}    lanes = tl.arange(0, BLOCK)
    # With a mask that is known to be true, and only then, whole vectors are loaded and stored.
    if left >= BLOCK:
        {function}_block(table, layout, columns, steps, partial, tensors, programs, program, owner, start,
                tl.full((BLOCK,), True, tl.int1), lanes, ALIGNED)
    else:
        {function}_block(table, layout, columns, steps, partial, tensors, programs, program, owner, start,
                lanes < left, lanes, ALIGNED)
'''

_SHARED = (
    *(
        "both",
        "copysign",
        "lower",
        "narrow_bfloat16",
        "random_word",
        "stochastic_bfloat16",
        "stochastic_float16",
        "upper",
        "widen_bfloat16",
    ),
)


class Variant(NamedTuple):
    """What one kernel is for.

    Attributes:
        width: The dtype that is computed in: `float32` or `float64`.
        types: The dtypes of the arrays as they are stored, in the order of `rule.elements`.
        lanes: For each of these arrays its lane, or `NEAREST`.
        compensated: Whether there is one more array, of the parameter's dtype, with what that cannot hold.
        columns: The names of the numbers that each tensor has of its own.
        steps: Whether each tensor has a step of its own, on the device.
    """

    width: str
    types: tuple[str, ...]
    lanes: tuple[int, ...]
    compensated: bool
    columns: tuple[str, ...]
    steps: bool


def scalars(rule: Rule) -> tuple[str, ...]:
    """Returns the names of the numbers that a kernel takes, in order."""
    return (*rule.keywords, "decay", "direction")


def source(rule: Rule, variant: Variant) -> str:
    """Returns the Python source of a module whose function `varigrad_<rule>` is the kernel."""
    arrays = (*rule.elements, "compensation") if variant.compensated else rule.elements
    types = (*variant.types, variant.types[0]) if variant.compensated else variant.types
    numbers, body = _arithmetic(rule, variant)
    storing = _stores(rule, variant)
    if len(set(types)) > 1:
        # Arrays of unlike dtypes may be shared out among the threads in unlike ways: all read before any writes.
        storing.insert(0, "tl.debug_barrier()")
    lines = [*_loads(variant, arrays, types), *body, *storing, *_sums(rule)]
    return _KERNEL.format(
        name=rule.name,
        function=f"varigrad_{rule.name}",
        width=variant.width,
        arrays=", ".join(arrays),
        shared=", ".join(_SHARED),
        skipping=_indented(_skipping(variant)),
        addresses=_indented(_addresses(arrays, types)),
        numbers=_indented(_numbers(rule, variant, len(arrays)) + numbers),
        body=_indented(lines),
    )


def _indented(lines: list[str]) -> str:
    return "".join(f"    {line}\n" for line in lines)


# ---------------------------------------------------------------- memory


def _addresses(arrays: tuple[str, ...], types: tuple[str, ...]) -> list[str]:
    lines = []
    for index, (name, dtype) in enumerate(zip(arrays, types, strict=True)):
        element = "uint16" if dtype == "bfloat16" else dtype
        address = f"tl.load(table + {index} * tensors + owner)"
        lines.append(f"all_{name} = {address}.to(tl.pointer_type(tl.{element})) + start")
    aligned = [f"    all_{name} = tl.multiple_of(all_{name}, 16)" for name in arrays]
    return [*lines, "if ALIGNED:", *aligned]


def _loads(variant: Variant, arrays: tuple[str, ...], types: tuple[str, ...]) -> list[str]:
    lines = []
    for name, dtype in zip(arrays, types, strict=True):
        value = f"tl.load(all_{name} + lanes, mask=mask, other=0)"
        lines.append(f"old_{name} = {_widened(value, dtype, variant.width)}")
    if variant.compensated:
        lines.append("old_param = old_param + old_compensation")
    return lines


def _widened(value: str, dtype: str, width: str) -> str:
    if dtype == "bfloat16":
        return f"widen_bfloat16({value})"
    return value if dtype == width else f"{value}.to(tl.{width})"


def _nearest(value: str, dtype: str) -> str:
    return f"narrow_bfloat16({value})" if dtype == "bfloat16" else f"{value}.to(tl.{dtype})"


def _stores(rule: Rule, variant: Variant) -> list[str]:
    """Returns the lines that write the new values `new_<name>`."""
    lines = []
    if any(lane != NEAREST for lane in variant.lanes):
        lines.append("index = tl.load(layout + tensors + owner) + start + lanes")
    words = {random_part(lane)[0] for lane in variant.lanes if lane != NEAREST}
    lines += [f"word{word} = random_word(step, {word}, index)" for word in sorted(words)]
    for name, dtype, lane in zip(rule.elements, variant.types, variant.lanes, strict=True):
        if name not in rule.results:
            continue
        value = f"new_{name}"
        if dtype != variant.width and lane != NEAREST:
            word, part = random_part(lane)
            value = f"stochastic_{dtype}({value}, {part}(word{word}))"
        elif dtype != variant.width:
            value = _nearest(value, dtype)
        lines += [f"stored_{name} = {value}", f"tl.store(all_{name} + lanes, stored_{name}, mask=mask)"]
    if variant.compensated:
        kept = _widened("stored_param", variant.types[0], variant.width)
        rest = _nearest(f"(new_param - {kept})", variant.types[0])
        lines.append(f"tl.store(all_compensation + lanes, {rest}, mask=mask)")
    return lines


def _sums(rule: Rule) -> list[str]:
    """Returns the lines that write, for each statistic, the sum over the elements of this program."""
    return [
        f"tl.store(partial + {index} * programs.to(tl.int64) + program, "
        f"tl.sum(tl.where(mask, found_{name}.to(tl.float64), 0.0), axis=0))"
        for index, name in enumerate(rule.statistics)
    ]


# ---------------------------------------------------------------- arithmetic


def _numbers(rule: Rule, variant: Variant, arrays: int) -> list[str]:
    """Returns the lines that read the numbers, as float64."""
    names = scalars(rule)
    lines = []
    for index, name in enumerate(names):
        if name in variant.columns:
            value = f"tl.load(columns + {variant.columns.index(name)} * tensors + owner)"
        else:
            value = f"tl.load(table + {arrays} * tensors + {index}).to(tl.float64, bitcast=True)"
        lines.append(f"scalar_{name} = {value}")
    if any(lane != NEAREST for lane in variant.lanes):
        step = "steps + owner" if variant.steps else f"table + {arrays} * tensors + {len(names)}"
        lines.append(f"step = tl.load({step})")
    return lines


def _skipping(variant: Variant) -> list[str]:
    """Returns the line that leaves no element to a program whose tensor is to be left alone."""
    if SKIPPED not in variant.columns:
        return []
    return [f"left = tl.where(tl.load(columns + {variant.columns.index(SKIPPED)} * tensors + owner) != 0, 0, left)"]


def _arithmetic(rule: Rule, variant: Variant) -> tuple[list[str], list[str]]:
    """Returns the lines that compute on numbers, and those that compute on elements."""
    graph = trace(rule)
    # A prefix for each sort of name, lest a rule's own names meet one another or the words of Python.
    names = {id(graph.inputs[name]): f"scalar_{name}" for name in scalars(rule)}
    names |= {id(graph.inputs[name]): f"old_{name}" for name in rule.elements}
    numbers: list[str] = []
    body: list[str] = []

    def operand(value: Symbol | float, kind: int) -> str:
        width = variant.width if kind == ELEMENT else "float64"
        if not isinstance(value, Symbol):
            return f"tl.full((), {_literal(value)}, tl.{width})"
        # Numbers are computed in float64 and rounded once, as torch does with a Python number.
        narrower = value.kind < kind and value.operation not in ("greater", "less")
        return f"{names[id(value)]}.to(tl.{width})" if narrower else names[id(value)]

    for index, node in enumerate(graph.nodes):
        kind = NUMBER if node.kind == NUMBER else ELEMENT
        single = kind == ELEMENT and variant.width == "float32"
        expression = (_SINGLE if single else _EXPRESSIONS)[node.operation]
        arguments = [operand(argument, kind) for argument in node.arguments]
        value = expression.format(*arguments, t=f"tl.{variant.width}" if kind == ELEMENT else "tl.float64")
        names[id(node)] = f"v{index}"
        (numbers if kind == NUMBER else body).append(f"v{index} = {value}")
    body += [f"new_{name} = {names[id(graph.results[name])]}" for name in ("param", *rule.state)]
    body += [f"found_{name} = {names[id(graph.results[name])]}" for name in rule.statistics]
    return numbers, body


def _literal(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else f'float("{float(value)}")'
