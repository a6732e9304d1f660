"""A rule is checked when it is made, and its trace is the smallest graph that computes it."""

import math

import pytest
import torch

from varigrad.engine.rule import copysign, maximum, minimum, rule, sign, sqrt, where
from varigrad.engine.trace import ELEMENT, NUMBER, TENSOR

from . import toy_rules


def operations(the_rule, maximize=False, decays=False, per_tensor=()):
    return [node.operation for node in the_rule.trace(maximize, decays, frozenset(per_tensor)).nodes]


# ---------------------------------------------------------------- the decorator


def test_a_rule_knows_its_names():
    the_rule = toy_rules.learned
    assert the_rule.name == "learned"
    assert the_rule.elements == ("param", "grad", "mean", "previous")
    assert the_rule.results == ("param", "mean", "previous", "agreement")
    assert the_rule.keywords == ("lr", "gain")
    assert the_rule.memory == ("logit",)


def test_an_optional_argument_is_an_element_only_where_it_is_taken():
    assert toy_rules.weighted.elements == ("param", "grad", "mean")
    taking = toy_rules.weighted.taking("weight")
    assert taking.elements == ("param", "grad", "mean", "weight")
    assert taking.keywords == toy_rules.weighted.keywords == ("lr", "beta")
    assert taking is toy_rules.weighted.taking("weight")


def swapped(grad, param, mean, *, lr):
    return param, mean


def without_gradient(param, mean, *, lr):
    return param, mean


def without_state(param, grad, *, lr):
    return (param,)


def with_more(param, grad, mean, extra, *, lr):
    return param, mean


def scalar_by_position(param, grad, mean, lr):
    return param, mean


def with_rest(param, grad, *state, lr):
    return param, *state


@pytest.mark.parametrize(
    "function", [swapped, without_gradient, without_state, with_more, scalar_by_position, with_rest]
)
def test_a_wrong_signature_is_refused(function):
    with pytest.raises(TypeError, match=rf"{function.__name__} must take \(param, grad, mean, "):
        rule(state=("mean",))(function)


def test_an_argument_that_swallows_others_is_refused():
    def swallowing(param, grad, *, lr, **others):
        return (param,)

    with pytest.raises(TypeError, match="swallowing"):
        rule(state=())(swallowing)


@pytest.mark.parametrize("name", ["decay", "maximize", "direction"])
def test_a_name_of_the_engines_own_is_refused(name):
    scope = {}
    exec(f"def greedy(param, grad, *, {name}):\n    return (param - {name} * grad,)", scope)
    with pytest.raises(TypeError, match=name):
        rule(state=())(scope["greedy"])


def test_a_rule_runs_on_numbers():
    param, mean = toy_rules.momentum(1.0, 0.5, 0.0, lr=0.1, beta=0.9)
    assert mean == pytest.approx(0.05)
    assert param == pytest.approx(0.995)


def test_the_functions_of_a_rule_on_numbers():
    assert [sign(-2.0), sign(0.0), sign(3.0)] == [-1.0, 0.0, 1.0]
    assert [sqrt(4.0), maximum(1.0, 2.0), minimum(1.0, 2.0)] == [2.0, 2.0, 1.0]
    assert [copysign(2.0, -0.0), copysign(-2.0, 0.0)] == [-2.0, 2.0]
    assert [where(1.0 > 2.0, 3.0, 4.0), where(1.0 < 2.0, 3.0, 4.0)] == [4.0, 3.0]


def test_decay_and_direction_come_before_the_rule():
    plain = toy_rules.momentum(2.0 * 0.5, -3.0, 1.0, lr=0.1, beta=0.9)
    assert toy_rules.momentum(2.0, 3.0, 1.0, lr=0.1, beta=0.9, maximize=True, decay=0.5) == plain


# ---------------------------------------------------------------- the trace


def trace_of(function, state=()):
    return rule(state=state)(function).trace(False, False)


def branching_on_more(param, grad, *, lr):
    return (param - lr if grad > 0 else param,)


def branching_on_a_number(param, grad, *, lr):
    return (param - grad if lr > 0 else param,)


def branching_with_and(param, grad, *, lr):
    return (where(grad > 0 and param > 0, param, grad),)


def branching_with_max(param, grad, *, lr):
    return (max(param, grad),)


@pytest.mark.parametrize("function", [branching_on_more, branching_on_a_number, branching_with_and, branching_with_max])
def test_branching_on_a_value_is_refused(function):
    with pytest.raises(TypeError, match="cannot branch on a value: use where"):
        trace_of(function)


@pytest.mark.parametrize("comparison", [lambda x: x == 0.0, lambda x: x != 0.0], ids=["equal", "unequal"])
def test_equality_is_refused(comparison):
    with pytest.raises(TypeError):
        trace_of(lambda param, grad, *, lr: (where(comparison(grad), param, param - lr * grad),))


@pytest.mark.parametrize("foreign", [math.sqrt, torch.sqrt, float, lambda x: x**2, lambda x: x >= 0.0])
def test_what_is_not_an_operation_is_refused(foreign):
    with pytest.raises(TypeError):
        trace_of(lambda param, grad, *, lr: (param - lr * foreign(grad),))


@pytest.mark.parametrize("result", [lambda lr: lr, lambda lr: 2.0 * lr, lambda lr: 1.0, lambda lr: None])
def test_a_result_without_elements_is_refused(result):
    with pytest.raises(TypeError, match="result 'mean' must be computed element by element"):
        trace_of(lambda param, grad, mean, *, lr: (param - lr * grad, result(lr)), state=("mean",))


@pytest.mark.parametrize("count", [1, 3])
def test_a_wrong_number_of_results_is_refused(count):
    with pytest.raises(TypeError, match=rf"must return the tuple \(param, mean\), it returned {count} values"):
        trace_of(lambda param, grad, mean, *, lr: (param,) * count, state=("mean",))


def test_a_result_that_is_no_tuple_is_refused_on_tensors_too():
    """A tensor can be taken apart like a tuple: its rows would be written into the parameter and the state."""

    @rule(state=())
    def bare(param, grad, *, lr):
        return param - lr * grad

    with pytest.raises(TypeError, match=r"rule bare must return the tuple \(param,\), it returned one Tensor"):
        bare(torch.ones(1, 3), torch.ones(1, 3), lr=0.1)
    with pytest.raises(TypeError, match="it returned one Symbol"):
        bare.trace(False, False)


def test_what_tensors_have_beside_arithmetic_is_refused_with_what_there_is():
    with pytest.raises(TypeError, match=r"cannot use \.sign of a value.*functions that varigrad\.extending has"):
        trace_of(lambda param, grad, *, lr: (param - lr * grad.sign(),))
    with pytest.raises(TypeError, match=r"write x \* x for a square, sqrt\(x\) for a root"):
        trace_of(lambda param, grad, *, lr: (param - lr * grad**2,))


def test_a_common_subexpression_is_recorded_once():
    @rule(state=("mean",))
    def repeating(param, grad, mean, *, lr):
        return param - lr * (grad * grad), mean + lr * (grad * grad)

    assert operations(repeating) == ["mul", "mul", "sub", "add"]


def test_constants_are_told_apart_by_value():
    @rule(state=("mean",))
    def two_constants(param, grad, mean, *, lr):
        return param + 2.0 * grad, mean + 3.0 * grad

    assert operations(two_constants) == ["mul", "add", "mul", "add"]


def test_operand_order_is_kept():
    @rule(state=("mean",))
    def orders(param, grad, mean, *, lr):
        return param - grad, 1.0 / grad - param

    trace = orders.trace(False, False)
    names = [[getattr(a, "name", a) for a in node.arguments] for node in trace.nodes]
    assert names == [["param", "grad"], [1.0, "grad"], ["", "param"]]


def test_dead_nodes_are_dropped():
    @rule(state=("mean",))
    def wasteful(param, grad, mean, *, lr):
        unused = sqrt(abs(grad) + 1.0)
        maximum(unused, lr)
        return param - lr * grad, mean

    assert operations(wasteful) == ["mul", "sub"]


def test_a_result_may_be_an_input():
    trace = toy_rules.remembering.trace(False, False)
    assert trace.results["previous"] is trace.inputs["grad"]


def test_kinds_are_the_widest_of_the_arguments():
    @rule(state=())
    def mixed(param, grad, *, lr, gain):
        return (param - (1.0 - gain) * (2.0 * lr) * grad,)

    kinds = {node.kind for node in mixed.trace(False, False).nodes if node.operation != "sub"}
    assert kinds == {NUMBER, ELEMENT}
    kinds = [node.kind for node in mixed.trace(False, False, frozenset({"gain"})).nodes]
    assert kinds == [TENSOR, NUMBER, TENSOR, ELEMENT, ELEMENT]


@pytest.mark.parametrize(("maximize", "decays"), [(False, False), (True, False), (False, True), (True, True)])
def test_only_what_is_asked_for_is_in_the_graph(maximize, decays):
    found = operations(toy_rules.momentum, maximize, decays)
    assert found.count("neg") == maximize
    assert len(found) == 6 + maximize + decays
