"""AdaBayes' learning rate against Adam's (AdaBayes, Figure 3)."""

from __future__ import annotations

from collections.abc import Callable

import torch

import varigrad
from varigrad.lab.reproduce import verdict
from varigrad.lab.reproduce.findings import Curve, Row
from varigrad.theory import adabayes_fixed_point, adabayes_fp_variance

_LR, _SGD_LR, _BATCH_SIZE = 1e-3, 0.1, 128
_STEPS = {"full": 20_000, "tenth": 8000, "smoke": 200}
_RELAXED = 10  # time constants of σ²/η² steps after which a fixed point counts as reached


def learning_rates(scale: str, report: Callable[[str], None]) -> tuple[list[Row], list[Curve]]:
    """Runs the optimizer on gradients of every scale and compares its learning rates with the fixed point's."""
    report(f"{_STEPS[scale]} steps")
    draws = torch.Generator().manual_seed(0)
    variance = _SGD_LR / _BATCH_SIZE
    # What the paper has on its x-axis, Adam's learning rate η/√⟨g²⟩, over nine decades about σ².
    adam = variance * torch.logspace(-4.5, 4.5, 91, dtype=torch.float64)
    rms = _LR / adam  # of the gradient of the summed loss
    constant = _run(rms, _STEPS[scale], lambda: torch.where(torch.rand(rms.shape, generator=draws) < 0.5, 1.0, -1.0))
    normal = _run(rms, _STEPS[scale], lambda: torch.randn(rms.shape, generator=draws, dtype=torch.float64))
    exact = adabayes_fixed_point(rms**2, _LR, variance)
    approximate = adabayes_fp_variance(rms**2, _LR, variance)
    settled = _STEPS[scale] > _RELAXED * variance / _LR**2
    worst = (constant / exact - 1).abs().max().item()
    moderate = _LR * rms <= 0.1
    near = (approximate / exact - 1).abs()[moderate].max().item()
    rows = [
        _judged("exact fixed point: largest relative error of the optimizer", worst, settled, worst < 1e-4),
        _judged("Eq. 21 against the exact one, η√⟨g²⟩ ≤ 0.1: largest relative error", near, True, near < 0.05),
        _ratio(
            "little data, η/√⟨g²⟩ = 3·10⁴ σ²: learning rate over σ² (SGD)", (constant / variance)[-1].item(), settled
        ),
        _ratio(
            "much data, η√⟨g²⟩ = 0.01: learning rate over η/√⟨g²⟩ (Adam), σ² → ∞",
            adabayes_fixed_point((0.01 / _LR) ** 2, _LR, float("inf")) / (_LR / (0.01 / _LR)),
            True,
        ),
        _ratio(
            "much data, η√⟨g²⟩ = 10: learning rate over η/√⟨g²⟩ (Eq. 24), σ² → ∞",
            adabayes_fixed_point((10 / _LR) ** 2, _LR, float("inf")) / (_LR / (10 / _LR)),
            True,
        ),
    ]
    x = tuple(adam.tolist())
    points = {"AdaBayes, gradients ±√⟨g²⟩": constant, "AdaBayes, normal gradients": normal}
    lines = {
        "fixed point, exact": exact,
        "fixed point, Eq. 21": approximate,
        "σ² (SGD)": torch.full_like(adam, variance),
        "η/√⟨g²⟩ (Adam)": adam,
    }
    curves = [Curve("", label, x, tuple(values.tolist()), dots=True) for label, values in points.items()]
    curves += [Curve("", label, x, tuple(values.tolist())) for label, values in lines.items()]
    return rows, curves


def _run(rms: torch.Tensor, steps: int, unit: Callable[[], torch.Tensor]) -> torch.Tensor:
    """The posterior variances after some steps."""
    parameter = torch.nn.Parameter(torch.zeros_like(rms))
    optimizer = varigrad.AdaBayes([parameter], lr=_LR, sgd_lr=_SGD_LR, batch_size=_BATCH_SIZE)
    for _ in range(steps):
        parameter.grad = rms / _BATCH_SIZE * unit()
        optimizer.step()
    state: torch.Tensor = optimizer.state[parameter]["posterior_var"]
    return state.double()


def _judged(label: str, value: float, settled: bool, holds: bool) -> Row:
    judged = verdict.NOT_RUN if not settled else verdict.REPRODUCED if holds else verdict.NOT_REPRODUCED
    return Row(label, None, value, None, None, judged)


def _ratio(label: str, value: float, settled: bool) -> Row:
    judged = verdict.of_value(1.0, value, 0.01) if settled else verdict.NOT_RUN
    return Row(label, 1.0, value, None, None, judged, "within 1 %")
