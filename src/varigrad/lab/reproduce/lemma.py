"""Lemma 4.1 of the SVGD paper by Monte Carlo (Figure 7)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from varigrad.lab.reproduce import verdict
from varigrad.lab.reproduce.findings import Curve, Row

# n, λ, and the slope of the authors' ten points (least squares through the origin).
CASES = ((2, 1, 0.58648), (5, 2, 1.60037), (10, 3, 3.02626), (25, 4, 4.6377))
_PAIRS = 10
_DRAWS = {"full": 10_000, "tenth": 1000, "smoke": 100}


def lemma(scale: str, report: Callable[[str], None]) -> tuple[list[Row], list[Curve]]:
    """E[vᵀMᵀMu given ‖M‖ = λ] = c vᵀu: unit vectors, entries uniform in [-1, 1], ten thousand draws for each pair.

    Signs and order of the columns do not matter to the distribution, so E[MᵀM] = c I with c = E‖M‖_F²/n. Given the
    Frobenius norm that is λ²/n; given the spectral norm, as in the authors' program, c is measured on draws of its own.
    """
    draws = torch.Generator().manual_seed(0)
    rows: list[Row] = []
    curves: list[Curve] = []
    for norm in ("spectral", "Frobenius"):
        for n, length, slope in CASES:
            report(f"n = {n}, {norm} norm")
            c = length**2 / n if norm == "Frobenius" else _constant(n, length, _DRAWS[scale], draws)
            products, means, errors = [], [], []
            for _ in range(_PAIRS):
                v, u = (torch.nn.functional.normalize(_uniform((n,), draws), dim=0) for _ in range(2))
                matrices = _matrices(n, length, norm, _DRAWS[scale], draws)
                values = ((matrices @ v) * (matrices @ u)).sum(1)
                products.append((v @ u).item())
                means.append(values.mean().item())
                errors.append(values.std().item() / len(values) ** 0.5)
            rows += _rows(f"n = {n}, λ = {length}, {norm} norm", c, products, means, errors, slope, norm)
            order = sorted(range(_PAIRS), key=products.__getitem__)
            x, y = (tuple(values[i] for i in order) for values in (products, means))
            curves.append(Curve(f"{norm} norm", f"n = {n}, λ = {length}", x, y, dots=True))
    return rows, curves


def _rows(
    name: str, c: float, products: list[float], means: list[float], errors: list[float], paper: float, norm: str
) -> list[Row]:
    square = sum(product * product for product in products)
    slope = sum(product * mean for product, mean in zip(products, means, strict=True)) / square
    error = sum((product * error) ** 2 for product, error in zip(products, errors, strict=True)) ** 0.5 / square
    low, high = slope - 1.96 * error, slope + 1.96 * error
    rows = [
        Row(f"{name}: slope, closed form", c, slope, low, high, verdict.of_estimate(c, slope, error)),
        Row(
            f"{name}: largest distance from the line, in standard errors",
            None,
            (worst := max(abs(m - c * p) / e for p, m, e in zip(products, means, errors, strict=True))),
            None,
            None,
            verdict.REPRODUCED if worst <= 2.81 else verdict.WITHIN_NOISE if worst <= 4 else verdict.NOT_REPRODUCED,
            "ten points: below 2.81 with 95 % probability",
        ),
    ]
    if norm == "spectral":
        # The authors' slope has an error like ours.
        both = 2**0.5 * error
        rows.append(
            Row(f"{name}: slope, authors' log", paper, slope, low, high, verdict.of_estimate(paper, slope, both))
        )
    return rows


def _constant(n: int, length: float, count: int, draws: torch.Generator) -> float:
    matrices = _matrices(n, length, "spectral", 4 * count, draws)
    return (matrices.square().sum((1, 2)).mean() / n).item()


def _matrices(n: int, length: float, norm: str, count: int, draws: torch.Generator) -> torch.Tensor:
    matrices = _uniform((count, n, n), draws)
    order: int | str = 2 if norm == "spectral" else "fro"
    scaled: torch.Tensor = length * matrices / torch.linalg.matrix_norm(matrices, ord=order)[:, None, None]
    return scaled


def _uniform(shape: tuple[int, ...], draws: torch.Generator) -> torch.Tensor:
    return 2 * torch.rand(shape, generator=draws, dtype=torch.float64) - 1
