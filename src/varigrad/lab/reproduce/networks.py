"""Sizes of networks and seconds of their steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from varigrad.lab.optimizers import find_optimizer
from varigrad.lab.reproduce import verdict
from varigrad.lab.reproduce.findings import Curve, Row
from varigrad.lab.tasks import find_task

# Million parameters, seconds of a step with Adam and with VSGD (VSGD paper, Table 2).
_STEP_TIMES = {
    "cifar100-vgg16": (14.8, 0.38, 0.41),
    "cifar100-resnext18": (11.1, 0.84, 0.87),
    "cifar100-convmixer": (0.6, 0.36, 0.38),
}
_TIMED = {"full": 200, "tenth": 20, "smoke": 3}


def svgd_mlp(scale: str, report: Callable[[str], None]) -> tuple[list[Row], list[Curve]]:
    """The parameters of the drawn MLP."""
    return [_size("mnist-mlp", 245_482, "paper"), _size("mnist-mlp4", 239_146, "authors' program")], []


def svgd_vgg(scale: str, report: Callable[[str], None]) -> tuple[list[Row], list[Curve]]:
    """The parameters of the drawn VGG."""
    return [_size("cifar10-vgg6", 46_126, "paper")], []


def step_times(scale: str, report: Callable[[str], None]) -> tuple[list[Row], list[Curve]]:
    """Parameters, and how much longer a training step takes with VSGD than with Adam, on a GPU."""
    rows: list[Row] = []
    for name, (millions, adam, vsgd) in _STEP_TIMES.items():
        report(name)
        size = round(_parameters(name) / 1e6, 1)
        rows.append(
            Row(f"{name}: million parameters", millions, size, None, None, verdict.of_value(millions, size, 1e-9))
        )
        label, expected = f"{name}: a step with VSGD over one with Adam", vsgd / adam
        if not torch.cuda.is_available():
            rows.append(Row(label, expected, None, None, None, verdict.NOT_RUN, "needs a GPU"))
            continue
        ratios = _ratios(name, _TIMED[scale])
        interval = verdict.Interval.of(ratios)
        held = interval.mean <= expected
        judged = verdict.REPRODUCED if held else verdict.of_number(expected, ratios)
        rows.append(Row(label, expected, interval.mean, interval.low, interval.high, judged, "at most the paper's"))
    return rows, []


def _ratios(name: str, rounds: int) -> list[float]:
    task, device = find_task(name), torch.device("cuda")
    inputs = torch.randn(task.batch_size, 3, 32, 32, device=device)
    labels = torch.randint(100, (task.batch_size,), device=device)
    steps = {}
    for optimizer in ("adam", "vsgd"):
        model = task.model().to(device)
        steps[optimizer] = model, find_optimizer(optimizer).build(model, 1e-3, 0.0, task.batch_size, task.steps)
    ratios = []
    for _ in range(rounds + 3):
        seconds = {}
        for optimizer, (model, method) in steps.items():
            torch.cuda.synchronize()
            began = time.perf_counter()
            method.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
            method.step()
            torch.cuda.synchronize()
            seconds[optimizer] = time.perf_counter() - began
        ratios.append(seconds["vsgd"] / seconds["adam"])
    chunk = max(1, rounds // 10)
    kept = ratios[3:]
    return [statistics.median(kept[start : start + chunk]) for start in range(0, len(kept), chunk)]


def _parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in find_task(name).model().parameters())


def _size(name: str, expected: int, source: str) -> Row:
    count = _parameters(name)
    return Row(f"{name}: parameters, {source}", expected, count, None, None, verdict.of_value(expected, count, 0.0))
