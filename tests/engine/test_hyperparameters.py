"""What each kind of hyperparameter accepts, and that a refusal says what, which value, and what is accepted."""

import math
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from varigrad.engine.hyperparameters import Interval, LearningRate, OneOf, Pair, Switch

NAN = math.nan
CLOSED = Interval(0.0, 1.0)
HALF_OPEN = Interval(0.5, 1.0, open_low=True)
BELOW_ONE = Interval(0.0, 1.0, open_high=True)
UNBOUNDED = Interval()

ACCEPTED = [
    (CLOSED, [0, 1, 0.0, 1.0, 0.5, np.float32(0.5), np.float64(1.0), np.int64(1), Fraction(1, 3)]),
    (HALF_OPEN, [0.5000001, 1.0]),
    (BELOW_ONE, [0.0, math.nextafter(1.0, 0.0)]),
    (UNBOUNDED, [0.0, 1e300, 7]),
    (LearningRate(), [0, 0.0, 1.5, torch.tensor(0.1), torch.tensor([0.1]), torch.tensor(0.1, dtype=torch.float64)]),
    (Pair(CLOSED), [(0.0, 1.0), [0.5, 0.5]]),
    (OneOf(("exact", "euler")), ["exact", "euler"]),
    (Switch(), [True, False]),
    (Switch(optional=True), [True, False, None]),
]

OUT_OF_RANGE = [
    (CLOSED, [-1e-9, 1.0000001, NAN, math.inf, -math.inf, np.float64("nan")]),
    (HALF_OPEN, [0.5, 0.0, 1.1, NAN]),
    (BELOW_ONE, [1.0, 2]),
    (UNBOUNDED, [-1e-300, math.inf, NAN]),
    (LearningRate(), [-0.1, NAN, math.inf, torch.tensor(-1.0), torch.tensor(NAN), torch.tensor(math.inf)]),
    (LearningRate(), [torch.ones(2), torch.ones(0), torch.tensor(1), torch.tensor(1j)]),
    (Pair(CLOSED), [(0.5,), (0.1, 0.2, 0.3), (0.5, 2.0), (NAN, 0.5), ()]),
    (OneOf(("exact", "euler")), ["", "Exact", "other"]),
]

WRONG_TYPE = [
    (CLOSED, ["0.5", None, True, 0.5j, [0.5], torch.tensor(0.5), Decimal("0.5")]),
    (LearningRate(), ["0.1", None, True, [0.1], 1j]),
    (Pair(CLOSED), [0.5, None, "ab", {0.1, 0.2}, ("0.1", 0.5), (True, 0.5)]),
    (OneOf(("exact", "euler")), [None, 1, True]),
    (Switch(), [None, 0, 1, "True"]),
    (Switch(optional=True), [0, 1, "None"]),
]


def each(table):
    return [pytest.param(accepts, value, id=f"{accepts!r}-{value!r}") for accepts, values in table for value in values]


@pytest.mark.parametrize(("accepts", "value"), each(ACCEPTED))
def test_accepted(accepts, value):
    accepts.check("name", value)


@pytest.mark.parametrize(("accepts", "value"), each(OUT_OF_RANGE))
def test_out_of_range(accepts, value):
    with pytest.raises(ValueError, match=r"name.* is not accepted: it must be"):
        accepts.check("name", value)


@pytest.mark.parametrize(("accepts", "value"), each(WRONG_TYPE))
def test_wrong_type(accepts, value):
    with pytest.raises(TypeError, match=r"name.* is not accepted: it must be"):
        accepts.check("name", value)


@pytest.mark.parametrize(
    ("accepts", "value", "message"),
    [
        (CLOSED, 2.0, "beta = 2.0 is not accepted: it must be a number >= 0 and <= 1"),
        (HALF_OPEN, 0.5, "beta = 0.5 is not accepted: it must be a number > 0.5 and <= 1"),
        (UNBOUNDED, -1, "beta = -1 is not accepted: it must be a finite number >= 0"),
        (Pair(BELOW_ONE), (0.5, 1.0), "beta[1] = 1.0 is not accepted: it must be a number >= 0 and < 1"),
        (Pair(BELOW_ONE), (0.5,), "beta = (0.5,) is not accepted: it must be a pair, each of it a number >= 0 and < 1"),
        (OneOf(("exact", "euler")), "x", "beta = 'x' is not accepted: it must be 'exact' or 'euler'"),
        (LearningRate(), -1.0, "beta = -1.0 is not accepted: it must be a finite number >= 0 or a floating-point "),
    ],
)
def test_the_message_names_argument_value_and_range(accepts, value, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        accepts.check("beta", value)


def test_the_value_of_a_tensor_elsewhere_is_not_waited_for():
    LearningRate().check("lr", torch.empty((), device="meta"))
