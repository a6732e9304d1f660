"""Every optimizer, in every way of running it, against the float64 transcription of its paper."""

import functools

import numpy as np
import pytest
import torch

from .table import WAYS, displacements, every_optimizer, every_way, exact

DIMENSION = 40
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@functools.cache
def stream(scale: float, dtype: torch.dtype, steps: int, seed: int = 0) -> list[np.ndarray]:
    """Noisy gradients around means of both signs and all sizes, exactly representable in `dtype`."""
    generator = np.random.default_rng(seed)
    mean = generator.normal(size=DIMENSION) * 10.0 ** generator.uniform(-2, 1, DIMENSION)
    gradients = scale * (mean + generator.normal(size=(steps, DIMENSION)))
    return list(torch.tensor(gradients).to(dtype).double().numpy())


def assert_exact(row, ours, gradients, lr, dtype, after, theta=None, number=0, decay=0.0):
    """Compares displacements after some steps, the largest error of a weight against the largest displacement."""
    start = np.zeros(DIMENSION) if theta is None else theta
    rates = lr if isinstance(lr, float) else tuple(lr)
    columns = tuple(None if g is None else g.tobytes() for g in gradients)
    right = exact(row, number, start.tobytes(), columns, rates, decay)
    for step in after:
        error = np.abs(ours[step] - right[step]).max() / np.abs(right[step]).max()
        assert error <= TOLERANCE[dtype], f"{error:.2e} of the displacement after step {step}"


@every_optimizer
@pytest.mark.parametrize("way", ["loop", "foreach", "fused"])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3])
@every_dtype
def test_defaults_on_every_scale_of_gradients(row, way, scale, dtype):
    gradients = stream(scale, dtype, 1000)
    ours = displacements(row, [gradients], 1e-3, dtype, **WAYS[way])[0]
    assert_exact(row, ours, gradients, 1e-3, dtype, after=(1, 2, 10, 1000))


@every_way
@every_optimizer
@every_dtype
def test_every_setting_with_decay_and_schedule(row, way, dtype):
    steps = 150 if "capturable" in way else 1000
    theta = np.random.default_rng(1).normal(size=DIMENSION) if dtype == torch.float64 else None
    schedule = [1e-2 * min(1.0, (t + 1) / 20) * 0.5 ** (t // 250) for t in range(steps)]
    for number, settings in enumerate(row.settings):
        gradients = stream(0.1, dtype, steps, seed=number)
        ours = displacements(row, [gradients], schedule, dtype, theta, weight_decay=0.1, **settings, **WAYS[way])[0]
        assert_exact(row, ours, gradients, schedule, dtype, (1, 2, 10, 60, steps), theta, number, decay=0.1)


@every_way
@every_optimizer
@every_dtype
def test_a_parameter_whose_first_gradient_comes_late_or_is_missing_at_times(row, way, dtype):
    """A step counter per group, or a decay without a gradient, would show here."""
    steps = 100 if "capturable" in way else 1000
    prompt, late, missing = (list(stream(0.1, dtype, steps, seed)) for seed in range(3))
    late[:10] = [None] * 10
    missing[1::3] = [None] * len(missing[1::3])
    columns = [prompt, late, missing]
    ours = displacements(row, columns, 1e-2, dtype, weight_decay=0.1, **WAYS[way])
    assert np.abs(ours[1][10]).max() == 0
    for column, moved in zip(columns, ours, strict=True):
        assert_exact(row, moved, column, 1e-2, dtype, after=(11, 12, 30, steps), decay=0.1)
