"""Every optimizer, in every way of running it, against the float64 transcription of its paper."""

import numpy as np
import pytest
import torch

from .table import WAYS, displacements, every_optimizer, every_way

DIMENSION, STEPS = 40, 1000
AFTER = (1, 2, 10, STEPS)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}
SCALES = (1e-6, 1e-3, 1.0, 1e3)


def stream(scale: float, dtype: torch.dtype, seed: int = 0) -> list[np.ndarray]:
    """Noisy gradients around means of both signs and all sizes, exactly representable in `dtype`."""
    generator = np.random.default_rng(seed)
    mean = generator.normal(size=DIMENSION) * 10.0 ** generator.uniform(-2, 1, DIMENSION)
    gradients = scale * (mean + generator.normal(size=(STEPS, DIMENSION)))
    return list(torch.tensor(gradients).to(dtype).double().numpy())


def assert_close(row, ours: np.ndarray, exact: np.ndarray, dtype: torch.dtype) -> None:
    for step in AFTER:
        if row.signs:
            # Where a moment is within rounding of zero its sign is a matter of rounding: such weights are few, and
            # the others must agree.
            agree = np.abs(ours[step] - exact[step]) <= TOLERANCE[dtype] * np.abs(exact[step]).max()
            assert agree.mean() >= 0.9, f"step {step}: {np.flatnonzero(~agree)}"
        else:
            error = np.abs(ours[step] - exact[step]).max() / np.abs(exact[step]).max()
            assert error <= TOLERANCE[dtype], f"step {step}: {error:.2e} of the displacement"


@every_way
@every_optimizer
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_defaults_on_every_scale(row, way, scale, dtype):
    gradients = stream(scale, dtype)
    ours = displacements(row, [gradients], 1e-3, dtype, **WAYS[way])[0]
    assert_close(row, ours, row.transcription(np.zeros(DIMENSION), gradients, 1e-3), dtype)


@every_way
@every_optimizer
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_every_setting_with_decay_and_schedule(row, way, dtype):
    theta = np.random.default_rng(1).normal(size=DIMENSION) if dtype == torch.float64 else np.zeros(DIMENSION)
    schedule = [1e-2 * min(1.0, (t + 1) / 20) * 0.5 ** (t // 300) for t in range(STEPS)]
    for number, settings in enumerate(row.settings):
        gradients = stream(0.1, dtype, seed=number)
        ours = displacements(row, [gradients], schedule, dtype, theta, weight_decay=0.1, **settings, **WAYS[way])[0]
        exact = row.transcription(theta, gradients, schedule, weight_decay=0.1, **settings) - theta
        assert_close(row, ours, exact, dtype)


@every_way
@every_optimizer
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_parameter_whose_first_gradient_comes_late_or_that_is_skipped(row, way, dtype):
    """A step counter per group, or a decay without a gradient, would show here."""
    prompt, late, skipped = (stream(0.1, dtype, seed) for seed in range(3))
    late = [None] * 10 + late[10:]
    skipped = [None if t % 3 == 1 else g for t, g in enumerate(skipped)]
    columns = [prompt, late, skipped]
    ours = displacements(row, columns, 1e-2, dtype, weight_decay=0.1, **WAYS[way])
    for column, moved in zip(columns, ours, strict=True):
        exact = row.transcription(np.zeros(DIMENSION), column, 1e-2, weight_decay=0.1)
        assert np.abs(exact[10]).max() == 0 or column is not late
        for step in (11, 12, 30, STEPS):
            assert_close_at(row, moved[step], exact[step], dtype)


def assert_close_at(row, ours: np.ndarray, exact: np.ndarray, dtype: torch.dtype) -> None:
    bound = TOLERANCE[dtype] * np.abs(exact).max()
    share = (np.abs(ours - exact) <= bound).mean()
    assert share == 1.0 or (row.signs and share >= 0.9)
