"""The foreach way's plan: which kernels are called, what is written over, and that the result is the loop's."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from varigrad.engine import foreach
from varigrad.engine.plan import Plan
from varigrad.engine.rule import maximum, rule, sqrt

from . import toy_rules
from .toy_rules import EXACT_SCALARS, RULES, SCALARS, by_name, differences, draw, exact_inputs, random_rule, run


def plan_of(the_rule, per_tensor=()):
    return Plan(the_rule.trace(False, False, frozenset(per_tensor)), ("param", *the_rule.state))


def kernels(plan):
    return [call.kernel + "alpha" * (call.keyword == "alpha") for call in plan.calls]


# ---------------------------------------------------------------- which kernels

# Below p, g, a are tensors and s is a number.
ABSORBED = {
    "p + g * a": ["addcmul"],
    "g * a + p": ["addcmul"],
    "p - g * a": ["addcmul"],
    "p + g / a": ["addcdiv"],
    "g / a + p": ["addcdiv"],
    "p - g / a": ["addcdiv"],
    "p + s * (g * a)": ["addcmul"],
    "p + (g * a) * s": ["addcmul"],
    "s * (g * a) + p": ["addcmul"],
    "(g * a) * s + p": ["addcmul"],
    "p - s * (g * a)": ["addcmul"],
    "p - (g / a) * s": ["addcdiv"],
    "p + s * (g / a)": ["addcdiv"],
    "p + -s * (g * a)": ["addcmul"],
    "p - -s * (g * a)": ["addcmul"],
    "p - 3.0 * (g / a)": ["addcdiv"],
    "p + s * g": ["addalpha"],
    "p + g * s": ["addalpha"],
    "s * g + p": ["addalpha"],
    "g * s + p": ["addalpha"],
    "p - s * g": ["subalpha"],
    "p - g * -s": ["subalpha"],
    "p - 0.5 * g": ["subalpha"],
    "p + s * (2.0 * g)": ["mul", "addalpha"],
    "p * p + p": ["addcmul"],
    "p + p * s": ["addalpha"],
    # What must not be absorbed: the product is what is subtracted from, it is divided by a number or divides one, or it
    # is needed twice.
    "g * a - p": ["mul", "sub"],
    "s * g - p": ["mul", "sub"],
    "p + g / s": ["div", "add"],
    "p - s / g": ["div", "sub"],
    "1.0 + g * a": ["mul", "add"],
    "1.0 - s * g": ["mul", "sub"],
    "(p + g * a) * (g * a)": ["mul", "add", "mul"],
    "g * a + g * a": ["mul", "add"],
    "(p - s * g) + (a - s * g)": ["mul", "sub", "sub", "add"],
    # Only one of two products can be.
    "p * g + a * g": ["mul", "addcmul"],
    "p * g - a * g": ["mul", "addcmul"],
    "s * p + s * g": ["mul", "addalpha"],
    "p * g * a + a": ["mul", "addcmul"],
}


def expression_rule(expression):
    @rule(state=("left",))
    def written(param, grad, left, *, lr):
        return eval(expression, {"sqrt": sqrt, "maximum": maximum}, {"p": param, "g": grad, "a": left, "s": lr}), left

    return written


@pytest.mark.parametrize("expression", ABSORBED)
def test_products_are_absorbed_where_they_may_be(expression):
    assert kernels(plan_of(expression_rule(expression))) == ABSORBED[expression]


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(
    "expression",
    [
        *ABSORBED,
        "1.0 / (s / (sqrt(maximum(p * p, 0.1)) + 1.0))",
    ],
)
def test_absorbed_products_compute_the_same(expression, maximize):
    the_rule = expression_rule(expression)
    tensors = draw(the_rule)
    assert not differences(*(run(way, the_rule, tensors, maximize) for way in ("loop", "foreach")), 1e-14)


@pytest.mark.parametrize("expression", ABSORBED)
def test_a_number_per_tensor_computes_the_same(expression):
    the_rule = expression_rule(expression)
    tensors = draw(the_rule)
    rates = [torch.tensor(0.1 * (1 + index), dtype=torch.float64) for index in range(len(tensors["param"]))]
    assert not differences(*(run(way, the_rule, tensors, lr=rates) for way in ("loop", "foreach")), 1e-14)


def test_a_plan_of_a_momentum_is_three_calls_in_place():
    """Mean and parameter are both computed where they are stored, without a temporary."""
    plan = plan_of(toy_rules.momentum)
    assert kernels(plan) == ["mul", "addalpha", "subalpha"]
    assert all(call.overwrites is not None for call in plan.calls)


# ---------------------------------------------------------------- storage


def execute(the_rule, tensors):
    return foreach._execute(plan_of(the_rule), tensors | {name: SCALARS[name] for name in the_rule.keywords})


@pytest.mark.parametrize("the_rule", RULES, ids=by_name)
def test_new_values_are_written_into_the_tensors_they_are_for(the_rule):
    tensors = draw(the_rule)
    expected = run("loop", the_rule, tensors)
    before = {name: list(column) for name, column in tensors.items()}
    addresses = {name: [tensor.data_ptr() for tensor in column] for name, column in tensors.items()}
    foreach.run(the_rule, tensors, {name: SCALARS[name] for name in the_rule.keywords}, False)
    for name in ("param", *the_rule.state):
        assert all(new is old for new, old in zip(tensors[name], before[name], strict=True))
        assert [tensor.data_ptr() for tensor in tensors[name]] == addresses[name]
    assert not differences({name: before[name] for name in the_rule.elements}, expected, 1e-13)


@pytest.mark.parametrize("the_rule", [toy_rules.momentum, toy_rules.normalized, toy_rules.still], ids=by_name)
def test_a_chain_is_computed_in_its_states_own_storage(the_rule):
    tensors = draw(the_rule)
    results = execute(the_rule, tensors)
    assert all(results[name] is tensors[name] for name in the_rule.state)


def test_a_state_whose_old_value_is_still_needed_is_not_computed_in_place():
    tensors = draw(toy_rules.entangled)
    results = execute(toy_rules.entangled, tensors)
    # The second may be: by then nobody needs its old value.
    assert results["left"] is not tensors["left"]


@pytest.mark.parametrize("the_rule", RULES, ids=by_name)
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("way", ["loop", "foreach"])
def test_the_gradient_is_never_written(the_rule, maximize, way):
    tensors = draw(the_rule)
    after = run(way, the_rule, tensors, maximize, decay=0.9)
    assert all(torch.equal(x, y) for x, y in zip(tensors["grad"], after["grad"], strict=True))


def test_a_remembered_gradient_is_a_copy():
    tensors = draw(toy_rules.remembering)
    foreach.run(toy_rules.remembering, tensors, SCALARS, False)
    for kept, grad in zip(tensors["previous"], tensors["grad"], strict=True):
        assert torch.equal(kept, grad)
        assert kept.numel() == 0 or kept.data_ptr() != grad.data_ptr()


# ---------------------------------------------------------------- the same values


@pytest.mark.parametrize("the_rule", RULES, ids=by_name)
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("decay", [{}, {"decay": 0.99}])
def test_foreach_is_the_loop(the_rule, maximize, decay):
    tensors = draw(the_rule)
    assert not differences(*(run(way, the_rule, tensors, maximize, **decay) for way in ("loop", "foreach")), 1e-13)


@settings(max_examples=800, deadline=None)
@given(program=st.integers(0, 2**32), operations=st.integers(1, 16), seed=st.integers(0, 99))
def test_random_rules_run_alike(program, operations, seed):
    """Their arithmetic is exact, so that every bit must agree in whatever order it is done."""
    the_rule = random_rule(random.Random(program), "random", operations)
    tensors = exact_inputs(seed)
    for settings_ in ({}, {"maximize": True}, {"decay": 0.5}):
        ours, theirs = (run(way, the_rule, tensors, **EXACT_SCALARS | settings_) for way in ("loop", "foreach"))
        assert not differences(ours, theirs)


@settings(max_examples=100, deadline=None)
@given(program=st.integers(0, 2**32), operations=st.integers(1, 12), seed=st.integers(0, 99))
def test_random_rules_run_alike_with_a_number_per_tensor(program, operations, seed):
    the_rule = random_rule(random.Random(program), "random", operations)
    tensors = exact_inputs(seed)
    scalars = {
        "lr": [torch.tensor(value, dtype=torch.float64) for value in (0.5, 0.5, 0.5)],
        "beta": [torch.tensor(2.0, dtype=torch.float64) for _ in range(3)],
    }
    ours, theirs = (run(way, the_rule, tensors, **scalars) for way in ("loop", "foreach"))
    assert not differences(ours, theirs)
