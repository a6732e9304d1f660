"""The oracle on trial: examples worked by hand, and the conventions that all its functions share.

The facts that hold for one paper are in test_reference_vsgd.py, ..._adabayes.py and ..._dissecting_adam.py.
"""

from collections.abc import Callable
from inspect import signature
from math import sqrt

import numpy as np
import pytest

from . import (
    adabayes,
    adabayes_fp,
    adam_star,
    adamw,
    constant_vsgd,
    msgd,
    mssd,
    msvag,
    msvag_minibatch,
    normalized_sgd,
    sgdm,
    ssd,
    svag,
    vsgd,
    vsgd_per_sample,
)

Optimizer = Callable[..., np.ndarray]

PLAIN = [
    adabayes, adabayes_fp, adam_star, adamw, constant_vsgd, msgd, mssd, msvag, normalized_sgd, sgdm, ssd, svag, vsgd
]  # fmt: skip
PER_SAMPLE = [msvag_minibatch, vsgd_per_sample]
EVERY = PLAIN + PER_SAMPLE

# (function, keywords, gradients of one coordinate, the steps it must take at these rates), all worked by hand
KALMAN = {"sgd_lr": 2.0, "batch_size": 2, "beta": 0.5}  # eta = sigma^2 = 1
FIXED_POINT = {"sgd_lr": 1 / 3, "batch_size": 2, "betas": (0.5, 0.5)}  # 1 / 2 sigma^2 = 3
KEPT = np.exp(-1)
PRIOR_2 = KEPT / 2 + 1 - KEPT  # after a first step with sigma_prior^2 = 1, g = 1
UNIT_PRIOR = {"prior_strength": 1.0, "variance_ratio": 3.0, "shape_offset": 0.0, "eps": 0.0}
WORKED = [
    (vsgd, {**UNIT_PRIOR, "kappas": (1.0, 2.0)}, [4.0, 27.0], 1.0, [1 / sqrt(1.75), 6 / sqrt(36 + 105 / 104)]),
    (vsgd, {**UNIT_PRIOR, "eps": 0.5}, [4.0], 1.0, [1 / (sqrt(1.75) + 0.5)]),
    (vsgd, {**UNIT_PRIOR, "shape_offset": 1.0}, [4.0], 1.0, [1 / sqrt(1.375)]),
    (constant_vsgd, {**UNIT_PRIOR, "kappa": 1.0}, [4.0, 9.0], 1.0, [1 / sqrt(1.25), 3 / sqrt(9 + 15 / 16)]),
    (constant_vsgd, {**UNIT_PRIOR, "eps": 0.5}, [4.0], 1.0, [1 / (sqrt(1.25) + 0.5)]),
    (constant_vsgd, {**UNIT_PRIOR, "shape_offset": 1.0}, [4.0], 1.0, [1 / sqrt(1.125)]),
    (adabayes, {**KALMAN, "transition": "euler"}, [0.5, 1.0], 1.0, [5 / 9, 41 / 120]),
    (adabayes, KALMAN, [0.5, 1.0], 1.0, [1 / 2, 5 / 3 / (1 / PRIOR_2 + 4)]),
    (adabayes_fp, FIXED_POINT, [1.0, 2.5], 0.5, [2 / 8, 4 / 12]),
    (adabayes_fp, {**FIXED_POINT, "eps": 6.0}, [1.0], 0.5, [2 / 10]),
    (msvag, {"beta": 0.5}, [1.0, 4.0], 1.0, [1.0, 54 / 23]),
    (svag, {"beta": 0.5}, [1.0, 4.0], 1.0, [1.0, 8 / 3]),
    (adam_star, {"beta": 0.5}, [1.0, 4.0], 1.0, [1.0, sqrt(18 / 23)]),
    (adam_star, {"beta": 0.5}, [8.0, -1.0], 1.0, [1.0, sqrt(4 / (4 + 5 / 9 * 18 * 9 / 4))]),  # the sign of m = 2
    (adam_star, {"beta": 0.5, "momentum": False}, [8.0, -1.0], 1.0, [1.0, -sqrt(4 / (4 + 18 * 9 / 4))]),  # of g
    (msgd, {"beta": 0.5}, [1.0, 4.0], 1.0, [1.0, 3.0]),
    (mssd, {"beta": 0.5}, [8.0, -1.0, -8.0], 1.0, [1.0, 1.0, -1.0]),
    (ssd, {}, [8.0, -1.0, 0.0], 1.0, [1.0, -1.0, 0.0]),
    (msvag_minibatch, {"beta": 0.5}, [[0.0, 2.0], [2.0, 6.0]], 1.0, [1 / 2, 243 / 98]),
    (adamw, {"betas": (0.5, 0.5), "eps": 2.0}, [2.0, 5.0], 1.0, [2 / 4, 4 / (sqrt(18) + 2)]),
    (adamw, {"betas": (0.5, 0.5), "eps": 7.0, "eps_inside": True}, [2.0, 5.0], 1.0, [2 / sqrt(11), 4 / 5]),
    (sgdm, {"momentum": 0.5}, [2.0, 3.0], [1.0, 2.0], [2.0, 7.0]),
]


VSGD_DEFAULTS = {
    "prior_strength": 1e-8,
    "variance_ratio": 30.0,
    "shape_offset": 5e-5,
    "eps": 1e-8,
    "return_state": False,
}
ADABAYES_DEFAULTS = {"sgd_lr": 0.1, "batch_size": 1, "reference_lr": None}
DEFAULTS = {
    vsgd: {"kappas": (0.81, 0.9), **VSGD_DEFAULTS},
    vsgd_per_sample: {"kappas": (0.81, 0.9), **VSGD_DEFAULTS},
    constant_vsgd: {"kappa": 0.9, **VSGD_DEFAULTS},
    adabayes: {"beta": 0.9, "transition": "exact", **ADABAYES_DEFAULTS},
    adabayes_fp: {"betas": (0.9, 0.999), "eps": 0.0, **ADABAYES_DEFAULTS},
    **{optimizer: {"beta": 0.9} for optimizer in (msvag, svag, msgd, mssd, msvag_minibatch)},
    adam_star: {"beta": 0.9, "momentum": True},
    ssd: {},
    adamw: {"betas": (0.9, 0.999), "eps": 1e-8, "eps_inside": False},
    sgdm: {"momentum": 0.9},
    normalized_sgd: {"norm": "element"},
}


def stream(optimizer: Optimizer, steps: int = 12, size: int = 3) -> list[np.ndarray]:
    """Reproducible noisy gradients in the shape that `optimizer` takes."""
    random = np.random.default_rng(7)
    return list(random.normal(0.3, 1.0, size=(steps, 4, size) if optimizer in PER_SAMPLE else (steps, size)))


@pytest.mark.parametrize(("optimizer", "keywords", "gradients", "lr", "steps"), WORKED)
def test_worked_by_hand(optimizer, keywords, gradients, lr, steps):
    column = [np.reshape(gradient, (*np.shape(gradient), 1)) for gradient in gradients]
    moved = -np.diff(optimizer(np.zeros(1), column, lr, **keywords)[:, 0])
    np.testing.assert_allclose(moved, steps, rtol=1e-14)


@pytest.mark.parametrize("optimizer", EVERY)
def test_defaults(optimizer):
    parameters = signature(optimizer).parameters.values()
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert keywords == {**DEFAULTS[optimizer], "weight_decay": 0.0}


def test_global_norm_worked_by_hand():
    moved = normalized_sgd(np.zeros(2), [[3.0, -4.0], [0.0, 0.0]], 0.5, norm="global")
    np.testing.assert_allclose(moved, [[0, 0], [-0.3, 0.4], [-0.3, 0.4]], rtol=1e-15)
    elements = normalized_sgd(np.zeros(2), [[3.0, -4.0], [0.0, 0.0]], 0.5)
    np.testing.assert_array_equal(elements, [[0, 0], [-0.5, 0.5], [-0.5, 0.5]])


@pytest.mark.parametrize("optimizer", EVERY)
def test_trajectory_begins_at_theta_and_keeps_its_shape(optimizer):
    theta = np.arange(6.0).reshape(2, 3)
    gradients = [np.stack([gradient, gradient], axis=-2) for gradient in stream(optimizer)]
    trajectory = optimizer(theta, gradients, 0.1)
    assert trajectory.shape == (13, 2, 3)
    assert trajectory.dtype == np.float64
    np.testing.assert_array_equal(trajectory[0], np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(theta, np.arange(6.0).reshape(2, 3))
    flat = optimizer(theta[1], stream(optimizer), 0.1)
    if optimizer is not normalized_sgd:
        np.testing.assert_array_equal(trajectory[:, 1], flat)


@pytest.mark.parametrize("optimizer", EVERY)
def test_a_step_without_gradient_is_skipped_wholly(optimizer):
    theta, gradients = np.ones(3), stream(optimizer)
    rates = list(np.linspace(0.1, 0.01, len(gradients)))
    plain = optimizer(theta, gradients, rates, weight_decay=0.1)
    skipping = optimizer(
        theta, [None, *gradients[:5], None, *gradients[5:]], [rates[0], *rates[:5], 9.0, *rates[5:]], weight_decay=0.1
    )
    np.testing.assert_array_equal(np.delete(skipping, [0, 6], axis=0), plain)
    np.testing.assert_array_equal(skipping[1], theta)
    np.testing.assert_array_equal(skipping[7], skipping[6])


@pytest.mark.parametrize("optimizer", EVERY)
def test_decay_is_decoupled_and_comes_first(optimizer):
    theta, gradients, rates = np.array([1.0, -2.0, 3.0]), stream(optimizer), np.linspace(0.2, 0.02, 12)
    moves = np.diff(optimizer(np.zeros(3), gradients, rates), axis=0)
    for move, rate, before, after in zip(
        moves, rates, *(lambda t: (t[:-1], t[1:]))(optimizer(theta, gradients, rates, weight_decay=0.5)), strict=True
    ):
        np.testing.assert_allclose(after, before * (1 - rate * 0.5) + move, rtol=0, atol=1e-14)


@pytest.mark.parametrize("optimizer", [f for f in EVERY if f not in (adabayes, sgdm)])
def test_steps_are_proportional_to_the_rate(optimizer):
    """So they are for AdaBayes-FP, whose SGD rate follows the schedule; AdaBayes and SGDM remember old rates."""
    gradients, rates = stream(optimizer), np.linspace(0.2, 0.0, 12)
    constant = np.diff(optimizer(np.zeros(3), gradients, 0.2), axis=0)
    scheduled = np.diff(optimizer(np.zeros(3), gradients, rates), axis=0)
    np.testing.assert_allclose(scheduled, constant * (rates / 0.2)[:, None], rtol=0, atol=1e-14)


@pytest.mark.parametrize("optimizer", EVERY)
def test_zero_gradients_do_not_move(optimizer):
    """0/0 := 0 and sign(0) := 0: an unused weight stays, even beside one that moves."""
    gradients = np.stack(stream(optimizer))
    gradients[..., 1] = 0
    trajectory = optimizer(np.ones(3), list(gradients), 0.1, **({"eps": 0.0} if optimizer is adamw else {}))
    assert (trajectory[:, 1] == 1).all()
    assert (trajectory[1, [0, 2]] != 1).all()


@pytest.mark.parametrize("optimizer", EVERY)
def test_a_stream_that_does_not_fit_is_refused(optimizer):
    with pytest.raises(ValueError, match="entries"):
        optimizer(np.zeros(3), stream(optimizer), [0.1] * 11)
    with pytest.raises(ValueError, match="shape"):
        optimizer(np.zeros((2, 3)), stream(optimizer), 0.1)


def test_adamw_is_torchs():
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    optimizer = torch.optim.AdamW([parameter], lr=0.01, betas=(0.8, 0.99), eps=1e-3, weight_decay=0.1)
    expected = [parameter.detach().clone().numpy()]
    for gradient in stream(adamw):
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
        expected.append(parameter.detach().clone().numpy())
    ours = adamw([1.0, -2.0, 3.0], stream(adamw), 0.01, betas=(0.8, 0.99), eps=1e-3, weight_decay=0.1)
    np.testing.assert_allclose(ours, expected, rtol=1e-14)
