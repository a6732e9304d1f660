"""The samples' terms of a parameter's gradient: their sum is the gradient, their spread its variance.

The gradient of a parameter of a layer is a sum over the samples of the batch. Every class here knows these terms for
one kind of layer from the layer's input and the gradient G at its output, and finds their moments without holding more
than a block of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Size, Tensor

from .arithmetic import Moments

__all__ = ["Outer", "Rows", "Scattered", "Terms", "Together"]

BLOCK = {"cpu": 2**18}
"""Elements of a block of terms: on a CPU what a cache holds."""
LARGEST_BLOCK = 2**25
MOST_PAIRS = 10
"""Up to this many pairs of positions are summed without forming the terms; more are dearer than forming them."""


class Terms(ABC):
    """The terms of one parameter, one for every sample.

    Attributes:
        count: The number of samples, M.
        shape: The shape of the parameter.
        coarse: Whether they were made of numbers rounded to half precision.
    """

    count: int
    shape: Size
    coarse: bool = False

    @abstractmethod
    def block(self, start: int, stop: int) -> Tensor:
        """Returns the terms of some samples, (stop - start, *shape), in a tensor of their own."""

    def extra(self) -> int:
        """The elements that are needed beside one term to form it."""
        return 0

    def moments(self, total: Tensor | None) -> Moments:
        """Returns sum and squared deviations of the terms; `total` is their sum where it is known already."""
        each = math.prod(self.shape) + self.extra()
        first = self.block(0, 1)
        size = max(1, BLOCK.get(first.device.type, LARGEST_BLOCK) // each)
        found: Tensor | None = None
        squares = torch.zeros_like(first[0])
        for start in range(0, self.count, size):
            block = self.block(start, min(start + size, self.count))
            if total is None:
                found = block.sum(0) if found is None else found.add_(block.sum(0))
            squares.add_(block.square_().sum(0))
        total = found if total is None else total
        assert total is not None
        return Moments(self.count, total, _deviations(squares, total, self.count))


def _deviations(squares: Tensor, total: Tensor, count: int) -> Tensor:
    """Squared deviations from the sum of squares.

    What cancels here is at most a few rounding errors of the sum of squares: they can be seen where the deviation is
    tiny against the mean, and can never matter against the squared mean.
    """
    return squares.sub_(total.square().div_(count)).clamp_(min=0)


class Rows(Terms):
    """Terms that are at hand: those of biases, scales and shifts, (M, *shape)."""

    def __init__(self, terms: Tensor) -> None:
        self.terms = terms
        self.count, self.shape = len(terms), terms.shape[1:]

    def block(self, start: int, stop: int) -> Tensor:
        """Returns a copy of the rows."""
        return self.terms[start:stop].clone()

    def moments(self, total: Tensor | None) -> Moments:
        """Returns sum and squared differences."""
        total = self.terms.sum(0)
        return Moments(self.count, total, (self.terms - total / self.count).square_().sum(0))


class Outer(Terms):
    """The weight of a linear layer: a sum over positions t of outer products, Σ_t G_t x_tᵀ.

    Args:
        grads: The gradients at the output, (M, T, O).
        inputs: The inputs, (M, T, I).
    """

    def __init__(self, grads: Tensor, inputs: Tensor) -> None:
        self.grads, self.inputs = grads, inputs
        self.count, self.positions = grads.shape[:2]
        self.shape = Size((grads.shape[2], inputs.shape[2]))

    def block(self, start: int, stop: int) -> Tensor:
        """Returns one product of matrices for every sample."""
        return torch.bmm(self.grads[start:stop].transpose(1, 2), self.inputs[start:stop])

    def times(self, vector: Tensor) -> Tensor:
        """Returns the terms times a vector of length I, (M, O)."""
        return torch.bmm(self.grads.transpose(1, 2), (self.inputs @ vector).unsqueeze(2)).squeeze(2)

    def moments(self, total: Tensor | None) -> Moments:
        """Returns the moments; from few positions without forming the terms.

        The square of a sum over positions is a sum over pairs of them: Σ_n Σ_st (G_ns G_nt)(x_ns x_nt)ᵀ, with
        products element by element, which is one product of matrices.
        """
        pairs = self.positions * (self.positions + 1) // 2
        if pairs > MOST_PAIRS:
            return super().moments(total)
        if total is None:
            total = self.grads.flatten(0, 1).t() @ self.inputs.flatten(0, 1)
        if pairs == 1:
            grads, inputs = self.grads[:, 0].square(), self.inputs[:, 0].square()
        else:
            s, t = torch.triu_indices(self.positions, self.positions, device=self.grads.device)
            twice = torch.where(s == t, 1.0, 2.0).to(self.grads)[:, None]
            grads = (self.grads[:, s] * self.grads[:, t] * twice).flatten(0, 1)
            inputs = (self.inputs[:, s] * self.inputs[:, t]).flatten(0, 1)
        return Moments(self.count, total, _deviations(grads.t() @ inputs, total, self.count))


class Scattered(Terms):
    """The weight of an embedding: gradients that are added to a few of its rows.

    Args:
        grads: The gradients at the output, (M, T, D).
        rows: The rows they belong to, (M, T).
        height: The number of rows of the weight.
        skip: A row that takes no gradient, the padding.
    """

    def __init__(self, grads: Tensor, rows: Tensor, height: int, skip: int | None) -> None:
        self.count = len(rows)
        self.shape = Size((height, grads.shape[-1]))
        samples = torch.arange(self.count, device=rows.device)[:, None].expand_as(rows)
        places = (samples * height + rows).flatten()
        grads = grads.flatten(0, 1)
        if skip is not None:
            kept = rows.flatten() != skip
            places, grads = places[kept], grads[kept]
        # Positions of one sample that name the same row are one term.
        unique, inverse = places.unique(return_inverse=True)
        self.grads = grads.new_zeros(len(unique), grads.shape[1]).index_add_(0, inverse, grads)
        self.samples, self.rows = unique // height, unique % height

    def block(self, start: int, stop: int) -> Tensor:
        """Returns the gradients at their places."""
        terms = self.grads.new_zeros((stop - start) * self.shape[0], self.shape[1])
        here = (self.samples >= start) & (self.samples < stop)
        terms[(self.samples[here] - start) * self.shape[0] + self.rows[here]] = self.grads[here]
        return terms.view(stop - start, *self.shape)

    def moments(self, total: Tensor | None) -> Moments:
        """Returns sum and squared differences; a sample that does not name a row differs from its mean by that mean."""
        total = self.grads.new_zeros(self.shape).index_add_(0, self.rows, self.grads)
        mean = total / self.count
        named = torch.bincount(self.rows, minlength=self.shape[0])[:, None]
        deviations = mean.square().mul_(self.count - named)
        deviations.index_add_(0, self.rows, (self.grads - mean[self.rows]).square_())
        return Moments(self.count, total, deviations)


class Together(Terms):
    """A parameter that was used several times: a sample's term is the sum over the uses."""

    def __init__(self, parts: Sequence[Terms]) -> None:
        self.parts = parts
        self.count, self.shape = parts[0].count, parts[0].shape

    @staticmethod
    def of(parts: Sequence[Terms]) -> Terms:
        """Returns the terms of all uses together: of linear layers those with the positions of all."""
        if len(parts) == 1:
            return parts[0]
        together: Terms
        if all(isinstance(part, Rows) for part in parts):
            together = Rows(torch.stack([part.terms for part in parts if isinstance(part, Rows)]).sum(0))
        elif all(isinstance(part, Outer) for part in parts):
            outer = [part for part in parts if isinstance(part, Outer)]
            together = Outer(torch.cat([part.grads for part in outer], 1), torch.cat([part.inputs for part in outer], 1))
        else:
            together = Together(parts)
        together.coarse = any(part.coarse for part in parts)
        return together

    def extra(self) -> int:
        """As much as the most demanding part, and its term."""
        return max(part.extra() for part in self.parts) + math.prod(self.shape)

    def block(self, start: int, stop: int) -> Tensor:
        """Returns the sum of the parts' terms."""
        block = self.parts[0].block(start, stop)
        for part in self.parts[1:]:
            block.add_(part.block(start, stop))
        return block
