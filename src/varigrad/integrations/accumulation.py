"""How much of a gradient is signal, found from the batches whose gradients are accumulated into one step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["AccumulatedNoise"]


class AccumulatedNoise:
    """Compares the gradients that are accumulated into a step, step by step.

    They are taken at the same weights, so that they differ by nothing but noise: with the gradients g_1 to g_M of one
    step and their sum G, the variance of G is estimated by M/(M-1) Σ (g_k - G/M)², and ‖G‖² exceeds the squared norm
    of its expectation by the sum of these variances. Both estimates are without bias; they are added up over steps.
    """

    def __init__(self) -> None:
        self._passes = 0
        self._totals: dict[str, Tensor] = {}
        self._deviations: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Notes what one more backward pass has added to the gradients.

        Args:
            named: Pairs of a parameter's name, `layer.weight`, and the parameter; those without a gradient and those
                with a sparse one are left out.
        """
        self._passes += 1
        earlier = self._passes - 1
        for name, param in named:
            if param.grad is None or param.grad.layout is not torch.strided:
                continue
            total = torch.view_as_real(param.grad.resolve_conj()) if param.is_complex() else param.grad
            total = total.to(torch.promote_types(total.dtype, torch.float32))
            if earlier == 0:
                self._totals[name] = total.clone()
                continue
            before = self._totals.setdefault(name, torch.zeros_like(total))
            # The new gradient against the mean of the earlier ones: no difference of large squares.
            change = total - before - before / earlier
            more = change.square().sum() * (earlier / self._passes)
            self._deviations[name] = self._deviations.get(name, 0.0) + more
            before.copy_(total)

    def end_step(self) -> None:
        """Closes a step. One of a single pass, or with a gradient that is not finite, does not count."""
        found: dict[str, Tensor] = {}
        if self._passes > 1:
            factor = self._passes / (self._passes - 1)
            for name, total in self._totals.items():
                variance = self._deviations[name] * factor
                pair = torch.stack((total.square().sum() - variance, variance)).float()
                for layer in {"", name.rpartition(".")[0]}:
                    found[layer] = found[layer] + pair if layer in found else pair
        for layer, pair in found.items():
            counts = torch.where(found[""].isfinite().all(), pair, 0.0)
            self._sums[layer] = self._sums[layer] + counts if layer in self._sums else counts
        self._passes = 0
        self._totals, self._deviations = {}, {}

    def ratios(self) -> dict[str, Tensor]:
        """Returns √(Σ E[G]² / Σ Var[G]) for every layer by its name, and under "" for all together.

        The sums are over a layer's weights and the steps so far. An estimate of Σ E[G]² that noise has pushed below
        zero is zero; a layer whose gradients were all zero has NaN.
        """
        return {layer: (signal.clamp(min=0.0) / noise).sqrt() for layer, (signal, noise) in self._sums.items()}
