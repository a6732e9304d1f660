"""Every element-wise function: numbers in, float out; tensors in, float64 out; and what they refuse."""

import inspect
import math

import numpy as np
import pytest
import torch

from varigrad import theory

# function, arguments inside the range, and for each argument the values just outside it
CASES = [
    (theory.sign_success_probability, (-0.3, 2.0), ([math.inf, math.nan], [-1e-9, math.inf, math.nan])),
    (theory.sign_adaptation_factor, (0.7,), ([-1e-9, math.nan],)),
    (theory.adam_adaptation_factor, (0.7,), ([-1e-9, math.nan],)),
    (theory.svag_adaptation_factor, (0.7,), ([-1e-9, math.nan],)),
    (theory.moving_average_variance, (0.9, 3), ([-1e-9, 1.0, math.nan], [0, 1.5, -math.inf, math.nan])),
    (theory.mean_variance_coefficient, (0.9, 3), ([-1e-9, 1.0, math.nan], [0, 1.5, -math.inf, math.nan])),
    (theory.expected_sign_product, (0.3, -1.0, 0.5), ([math.nan], [math.nan], [-1 - 1e-9, 1 + 1e-9, math.nan])),
    (
        theory.adabayes_fixed_point,
        (10.0, 1e-3, 0.1),
        ([-1e-9, math.inf, math.nan], [0.0, math.inf, math.nan], [0.0, -1.0, math.nan]),
    ),
    (
        theory.adabayes_fp_variance,
        (10.0, 1e-3, 0.1),
        ([-1e-9, math.inf, math.nan], [0.0, math.inf, math.nan], [0.0, -1.0, math.nan]),
    ),
    (
        theory.vsgd_variance_floor,
        (1e-8, 30.0, 5e-5),
        ([0.0, math.inf, math.nan], [0.0, math.inf, math.nan], [-1e-9, math.inf, math.nan]),
    ),
    (theory.vsgd_stationary_variances, (0.2, 3.0), ([-1e-9, 1 + 1e-9, math.nan], [-1e-9, math.inf, math.nan])),
    (theory.calibrated_observation_variance, (0.2, 3.0), ([-1e-9, math.inf, math.nan], [-1e-9, math.inf, math.nan])),
    (theory.local_level_gain, (0.2, 3.0), ([-1e-9, math.inf, math.nan], [-1e-9, math.inf, math.nan])),
]
IDS = [case[0].__name__ for case in CASES]


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize(("function", "arguments", "refused"), CASES, ids=IDS)
def test_numbers_give_floats_and_tensors_float64(function, arguments, refused):
    expected = as_tuple(function(*arguments))
    assert all(type(value) is float for value in expected)
    for dtype in (torch.float32, torch.float64):
        tensors = tuple(torch.full((2, 3), value, dtype=dtype) for value in arguments)
        rounded = as_tuple(function(*(tensor[0, 0].item() for tensor in tensors)))
        for result, value in zip(as_tuple(function(*tensors)), rounded, strict=True):
            assert result.dtype == torch.float64
            torch.testing.assert_close(result, torch.full((2, 3), value, dtype=torch.float64), rtol=1e-14, atol=0)
    for index in range(len(arguments)):  # one tensor among numbers, at any position
        mixed = list(arguments)
        mixed[index] = torch.tensor([arguments[index]] * 2, dtype=torch.float64)
        for result, value in zip(as_tuple(function(*mixed)), expected, strict=True):
            assert result.shape == (2,)
            assert result[0].item() == pytest.approx(value, rel=1e-14, abs=0)


@pytest.mark.parametrize(("function", "arguments", "refused"), CASES, ids=IDS)
def test_out_of_range_is_refused_by_name(function, arguments, refused):
    names = list(inspect.signature(function).parameters)
    for index, values in enumerate(refused):
        for value in values:
            wrong = list(arguments)
            wrong[index] = value
            with pytest.raises(ValueError, match=f"^{names[index]} = .*not accepted: it must be a .*number in"):
                function(*wrong)
            wrong[index] = torch.tensor([arguments[index], value], dtype=torch.float64)
            with pytest.raises(ValueError, match=f"^{names[index]} has the entry"):
                function(*wrong)


@pytest.mark.parametrize(("function", "arguments", "refused"), CASES, ids=IDS)
@pytest.mark.parametrize("wrong", ["0.5", None, True, [0.5], torch.tensor([True]), torch.tensor([0.5j])], ids=repr)
def test_wrong_type_is_refused_by_name(function, arguments, refused, wrong):
    names = list(inspect.signature(function).parameters)
    for index in range(len(arguments)):
        with pytest.raises(TypeError, match=f"^{names[index]} "):
            function(*arguments[:index], wrong, *arguments[index + 1 :])


def test_the_message_has_argument_value_and_range():
    with pytest.raises(ValueError, match=r"^beta = 1\.0, which is not accepted: it must be a number in \[0, 1\)$"):
        theory.moving_average_variance(1.0)
    with pytest.raises(ValueError, match=r"^step = 2\.5, .* it must be a whole number in \[1, ∞\]$"):
        theory.moving_average_variance(0.9, 2.5)
    with pytest.raises(ValueError, match=r"^relative_noise has the entry -2\.0, .* a number in \[0, ∞\]$"):
        theory.svag_adaptation_factor(torch.tensor([1.0, -2.0, -3.0]))


def test_numpy_numbers_and_integers_are_numbers():
    expected = theory.moving_average_variance(0.5, 3)
    assert theory.moving_average_variance(np.float64(0.5), np.int64(3)) == expected
    assert theory.moving_average_variance(np.float32(0.5), torch.tensor(3)).item() == expected


def test_every_function_is_public():
    assert len(set(theory.__all__)) == len(theory.__all__)
    for name in theory.__all__:
        assert getattr(theory, name).__doc__
