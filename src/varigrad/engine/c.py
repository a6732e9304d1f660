"""A rule's trace as C: one pass over memory, one function per rule and dtype.

This file and what it imports do without torch, because it also runs where the package is built (`setup.py`).
"""

from __future__ import annotations

import functools
import hashlib
import math
from pathlib import Path
from typing import Any

from .rule import Rule
from .trace import ELEMENT, NUMBER, Symbol, Trace

__all__ = ["DTYPES", "batch_fingerprint", "fingerprint", "library", "random_part", "symbol"]

DTYPES = ("float", "double")
"""The C types that there is a function for."""

# Multiplications and additions must be rounded one by one, as torch rounds them, or fused and loop would differ; that
# is the build's -ffp-contract=off. Everything else about speed is the compiler's: it turns the loop into vector code,
# once for each level of x86 processors, of which the loader chooses one.
_PROLOGUE = Path(__file__).with_name("storage.c").read_text("utf-8")

_BATCH, _PRODUCTS = (Path(__file__).with_name(name).read_text("utf-8") for name in ("batch.c", "products.c"))

# Vectors must be as long as the processor's: longer ones are taken apart into single numbers, which is slower than any
# other way. So there is a function for each length, and one that says which of them this processor has; 0 is none.
_VECTORS = {64: '"avx512f"', 32: '"avx2,fma"'}
_WITH_VECTORS = "#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)\n"
_VECTOR = """
int64_t varigrad_vector(void) {
    if (__builtin_cpu_supports("avx512f")) return 64;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 32 : 0;
}
#else
int64_t varigrad_vector(void) { return 0; }
#endif
"""

# What stands for each operation, with `{r}` the suffix of the C library's functions on this type.
_EXPRESSIONS = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "neg": "-{0}",
    "sqrt": "sqrt{r}({0})",
    "abs": "fabs{r}({0})",
    "copysign": "copysign{r}({0}, {1})",
    "sign": "{0} > 0 ? ({t})1 : {0} < 0 ? ({t})-1 : ({t})0",
    # A NaN on the left compares false and is passed on; one on the right is looked for.
    "maximum": "{1} != {1} ? {1} : {0} < {1} ? {1} : {0}",
    "minimum": "{1} != {1} ? {1} : {0} > {1} ? {1} : {0}",
    "greater": "{0} > {1}",
    "less": "{0} < {1}",
    "where": "{0} ? {1} : {2}",
}

_LOOP = """
LEVELS
static void {symbol}_{kind}(int64_t start, int64_t stop, {parameters}, const double *numbers, double *sums{more}) {{
{numbers}{sums}    {reduction}for ({counter}) {{
{body}    }}
{adding}{stores}}}
"""

_FUNCTION = """
/* {name}: the arrays {arrays};
   numbers[{count}]: {scalars}. */
{loop}
static void {symbol}_run(int64_t start, int64_t stop, void *const *arrays, int64_t step, const double *numbers,
        double *sums) {{
    {symbol}_span(start, stop, {casts}, numbers, sums);
}}

void {symbol}(work *all) {{
    for (int64_t portion; (portion = next_portion(all)) < all->portions;)
        for (int64_t k = all->ends[portion]; k < all->ends[portion + 1]; k++) {{
            const int64_t *span = all->spans + 3 * k;
            {symbol}_run(span[1], span[2], all->pointers + span[0], all->tensors, all->numbers + span[0] * all->stride,
                    all->sums + k * {statistics});
        }}
}}
"""

# Of the mixtures only float32 with state in bfloat16 has a loop of its own: a third faster than block by block, because
# the rounding goes on while the rule divides.
_MIXED_FUNCTION = """
{loop}
static void {symbol}_halve(int64_t start, int64_t stop, void *const *arrays, int64_t step, const double *numbers,
        double *sums, uint32_t first, uint32_t seed) {{
    {symbol}_halved(start, stop, {casts}, numbers, sums, first, seed);
}}

void {symbol}_mixed(work *all) {{
    for (int64_t portion; (portion = next_portion(all)) < all->portions;)
        run_mixed({symbol}_run, {symbol}_halve, {arrays}, {written}, {statistics}, all, all->ends[portion],
                all->ends[portion + 1]);
}}
"""


def symbol(name: str, ctype: str) -> str:
    """Returns the name of the C function of a rule for a C type."""
    return f"varigrad_{name}_{ctype}"


def random_part(lane: int) -> tuple[int, str]:
    """Returns the number of the random word that an array is rounded by, and the function that takes its bits from it.

    Args:
        lane: The place of the array among the parameter's, as in `rounding.random_bits`.
    """
    word, part = divmod(lane + 2, 3)
    return word, ("lower", "both", "upper")[part]


def trace(rule: Rule) -> Trace:
    """Returns the graph that is compiled; the gradient's sign and the decay are numbers, so that one serves all."""

    def function(param: Symbol, grad: Symbol, *state: Symbol, direction: Symbol, **scalars: Any) -> tuple[Any, ...]:
        return rule(param, direction * grad, *state, **scalars)

    scalars = dict.fromkeys((*rule.keywords, "decay", "direction"), NUMBER)
    return Trace.of(function, rule.elements, scalars, rule.results)


def _loop(rule: Rule, ctype: str, halved: bool = False) -> str:
    """Returns the C function that runs a rule over a stretch of elements.

    Args:
        rule: The rule.
        ctype: The C type that is computed in.
        halved: Whether the state is stored in bfloat16 and rounded stochastically; then for at most 2^30 elements, or
            a `STRETCH` where there are statistics.
    """
    graph = trace(rule)
    suffix = "f" if ctype == "float" else ""
    names: dict[int, str] = {}
    numbers, body = [], []
    in_half = rule.state if halved else ()
    # The vectors of numbers and of random words are of 32 bits: a counter of as many is one of them.
    at = "[start + i]" if halved else "[i]"
    counter = "int32_t i = 0; i < (int32_t)(stop - start); i++" if halved else "int64_t i = start; i < stop; i++"

    def constant(value: float) -> str:
        if math.isfinite(value):
            return repr(float(value))
        return "NAN" if math.isnan(value) else "INFINITY" if value > 0 else "-INFINITY"

    def operand(value: Symbol | float, kind: int) -> str:
        if not isinstance(value, Symbol):
            return f"({ctype}){constant(value)}" if kind == ELEMENT else constant(value)
        # Numbers are computed in double and rounded once, as torch does with a Python number.
        return f"({ctype}){names[id(value)]}" if value.kind < kind else names[id(value)]

    used = {id(argument) for node in graph.nodes for argument in node.arguments} | set(map(id, graph.results.values()))
    # A prefix for each sort of name, lest a rule's own names meet one another or the words of C.
    for index, name in enumerate(_scalars(rule)):
        names[id(graph.inputs[name])] = f"scalar_{name}"
        if id(graph.inputs[name]) in used:
            numbers.append(f"    const double scalar_{name} = numbers[{index}];\n")
    for name in rule.elements:
        names[id(graph.inputs[name])] = f"old_{name}"
        if id(graph.inputs[name]) not in used:
            continue
        old = f"widened_bfloat16(all_{name}{at})" if name in in_half else f"all_{name}{at}"
        body.append(f"        const {ctype} old_{name} = {old};\n")
    for index, node in enumerate(graph.nodes):
        names[id(node)] = f"v{index}"
        kind = NUMBER if node.kind == NUMBER else ELEMENT
        arguments = [operand(argument, kind) for argument in node.arguments]
        here = "double" if kind == NUMBER else ctype
        expression = _EXPRESSIONS[node.operation].format(*arguments, r=suffix if kind == ELEMENT else "", t=here)
        if node.operation in ("greater", "less"):
            here = "int"
        (numbers if kind == NUMBER else body).append(
            f"{'    ' if kind == NUMBER else '        '}const {here} v{index} = {expression};\n"
        )
    for lane, name in enumerate(("param", *rule.state)):
        new = names[id(graph.results[name])]
        if name in in_half:
            word, part = random_part(lane)
            if part == "lower":
                numbers.append(f"    const uint32_t key{word} = key_of(seed, {lane});\n")
                place = "first + (uint32_t)start + (uint32_t)i"
                body.append(f"        const uint32_t word{word} = mix(({place}) ^ key{word});\n")
            new = f"rounded_bfloat16({new}, {part}(word{word})) >> 16"
        body.append(f"        all_{name}{at} = {new};\n")
    # Compilers make vectors of 256 bits, at half the speed, of a loop that has 16 bits in it and sums too.
    parts = "each_{0}[i] = {1}" if halved else "sum_{0} += (double){1}"
    for name in rule.statistics:
        body.append(f"        {parts.format(name, names[id(graph.results[name])])};\n")
    totals = [f"sum_{name}" for name in rule.statistics]
    reduction = f'_Pragma("omp simd reduction(+:{",".join(totals)})")\n    ' if totals else ""
    each = [f"        sum_{name} += (double)each_{name}[i];\n" for name in rule.statistics if halved]
    return _LOOP.format(
        symbol=symbol(rule.name, ctype),
        kind="halved" if halved else "span",
        parameters=", ".join(
            f"{'' if n in rule.results else 'const '}{'uint16_t' if n in in_half else ctype} *restrict all_{n}"
            for n in rule.elements
        ),
        more=", uint32_t first, uint32_t seed" if halved else "",
        numbers="".join(numbers),
        sums="".join(f"    double {total} = 0.0;\n" for total in totals)
        + "".join(f"    float each_{name}[STRETCH];\n" for name in rule.statistics if halved),
        counter=counter,
        reduction="" if halved else reduction,
        body="".join(body),
        adding=f"    {reduction}for ({counter}) {{\n{''.join(each)}    }}\n" if each else "",
        stores="".join(f"    sums[{index}] += {total};\n" for index, total in enumerate(totals)),
    )


def _scalars(rule: Rule) -> tuple[str, ...]:
    return (*rule.keywords, "decay", "direction")


def _function(rule: Rule, ctype: str) -> str:
    """Returns the C function that runs a rule over spans of tensors."""
    common = {
        "symbol": symbol(rule.name, ctype),
        "statistics": len(rule.statistics),
        "casts": ", ".join(f"arrays[{index} * step]" for index in range(len(rule.elements))),
    }
    code = _FUNCTION.format(
        name=rule.name,
        arrays=", ".join(rule.elements),
        count=len(_scalars(rule)),
        scalars=", ".join(_scalars(rule)),
        loop=_loop(rule, ctype),
        **common,
    )
    if ctype != "float":
        return code
    return code + _MIXED_FUNCTION.format(
        arrays=len(rule.elements), written=2 + len(rule.state), loop=_loop(rule, ctype, halved=True), **common
    )


def fingerprint(rule: Rule) -> str:
    """Returns a hash of a rule's C code: a library built from an older rule must not be used for a newer one."""
    text = _PROLOGUE + "".join(_function(rule, ctype) for ctype in DTYPES)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def batch_code() -> str:
    """Returns the C source of what is computed of a batch, beside the rules."""
    parts = [_of_type(_BATCH, ctype) for ctype in DTYPES] + [_WITH_VECTORS]
    for length, target in _VECTORS.items():
        attribute = f'__attribute__((target({target}), optimize("fp-contract=fast")))'
        code = _PRODUCTS.replace("VECTOR", str(length)).replace("TARGET", attribute)
        parts += [_of_type(code, ctype) for ctype in DTYPES]
    return "".join([*parts, _VECTOR])


def _of_type(code: str, ctype: str) -> str:
    return code.replace("REAL", ctype).replace("ROOT", "sqrtf" if ctype == "float" else "sqrt")


def batch_fingerprint() -> str:
    """Returns a hash of it."""
    return hashlib.sha256((_PROLOGUE + batch_code()).encode()).hexdigest()[:16]


def library(rules: list[Rule]) -> str:
    """Returns the C source of all rules and of the variants with each of their optional arguments."""
    parts = [_PROLOGUE, batch_code(), f'\nconst char {symbol("batch", "fingerprint")}[] = "{batch_fingerprint()}";\n']
    for rule in rules:
        for variant in (rule, *map(rule.taking, rule.optional)):
            parts.append(f'\nconst char {symbol(variant.name, "fingerprint")}[] = "{fingerprint(variant)}";\n')
            parts += [_function(variant, ctype) for ctype in DTYPES]
    return "".join(parts)
