"""The samples' terms of a parameter's gradient: their sum is the gradient, their spread its variance.

The gradient of a layer's parameter is a sum over the samples of the batch. Every class here knows these terms for one
kind of layer, from the layer's input and the gradient at its output, and finds their variance while holding a few of
them at a time, or none.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence

import torch
from torch import Size, Tensor

from varigrad.engine.batch import add_products, deviations, overhang, spread

from .arithmetic import Moments

__all__ = ["Memory", "Outer", "Rows", "Scattered", "Terms", "Together"]

BLOCK = {"cpu": 2**18}
"""Elements held at a time: on a CPU what a cache holds."""
LARGEST_BLOCK = 2**25
FEW = 4096
"""Elements below which a function call costs more than a pass over them."""
MOST_PAIRS = 10
"""Up to this many pairs of positions are summed without forming the terms; more are dearer than forming them."""


class Memory:
    """Working memory that is used again: a CPU takes longer to hand out new memory than to fill what it has."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, purpose: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Returns memory of a shape, whatever is in it, until the next request for the same purpose."""
        if like.device.type != "cpu":
            return like.new_empty(shape)
        size = math.prod(shape)
        held = self._held.get((purpose, like.dtype))
        if held is None or held.numel() < size:
            held = self._held[purpose, like.dtype] = like.new_empty(size)
        return held[:size].view(shape)


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
    def fill(self, block: Tensor, start: int, memory: Memory) -> None:
        """Writes the terms of the samples from `start` on into a block, (samples, *self.layout())."""

    def layout(self) -> Size:
        """Returns the shape in which single terms come."""
        return self.shape

    def arranged(self, tensor: Tensor) -> Tensor:
        """Returns a tensor that is laid out like the terms in the shape of the parameter."""
        return tensor

    def extra(self) -> int:
        """The elements that are needed beside one term to form it."""
        return 0

    @abstractmethod
    def like(self) -> Tensor:
        """Returns a tensor of the terms' dtype and device."""

    def moments(self, memory: Memory, total: Tensor | None = None, out: Tensor | None = None) -> Moments:
        """Returns the sum of the terms and its variance, M/(M-1) Σ (c_n - c̄)², as (M Σ c_n² - total²) / (M-1).

        The two cancel where the terms differ little from each other. What is lost there is a rounding error of the
        squared mean, so that it can never matter against the squared mean.

        Args:
            memory: To work in.
            total: Their sum, where it is known.
            out: Memory of the parameter's shape, for the variance if it is of use.
        """
        total, squares = (self.like().new_zeros(self.layout()) for _ in range(2))
        for block in self._blocks(memory):
            if total.numel() < FEW:
                total.add_(block.sum(0))
                squares.add_(block.square_().sum(0))
            else:  # one pass over memory for each, while the terms are in the cache
                for term in block:
                    total.add_(term)
                    squares.addcmul_(term, term)
        return self.of_sums(total, squares)

    def of_sums(self, total: Tensor, squares: Tensor) -> Moments:
        """Returns the moments from the sums of the terms and of their squares, laid out as the terms come."""
        variance = spread(total, squares, self.count)
        return Moments(self.count, self.arranged(total), self.arranged(variance))

    def total(self, memory: Memory) -> Tensor:
        """Returns the sum of the terms alone."""
        return self.moments(memory).total

    def _blocks(self, memory: Memory) -> Iterator[Tensor]:
        """Fills one block of memory again and again, until all samples have been in it."""
        layout = self.layout()
        room = BLOCK.get(self.like().device.type, LARGEST_BLOCK)
        size = max(1, min(self.count, room // max(1, math.prod(layout) + self.extra())))
        blocks = memory.take("terms", (size, *layout), self.like())
        for start in range(0, self.count, size):
            block = blocks[: self.count - start]
            self.fill(block, start, memory)
            yield block


class Rows(Terms):
    """Terms that are at hand: those of biases, scales and shifts, (M, *shape)."""

    def __init__(self, terms: Tensor) -> None:
        self.terms = terms
        self.count, self.shape = len(terms), terms.shape[1:]

    def like(self) -> Tensor:
        """Returns them."""
        return self.terms

    def fill(self, block: Tensor, start: int, memory: Memory) -> None:
        """Copies the rows."""
        block.copy_(self.terms[start : start + len(block)])

    def total(self, memory: Memory) -> Tensor:
        """Returns their sum."""
        return self.terms.sum(0)

    def moments(self, memory: Memory, total: Tensor | None = None, out: Tensor | None = None) -> Moments:
        """Returns the moments, from squared differences."""
        total = self.total(memory) if total is None else total
        return Moments(self.count, total, deviations(self.terms, total))


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

    def like(self) -> Tensor:
        """Returns the gradients."""
        return self.grads

    def fill(self, block: Tensor, start: int, memory: Memory) -> None:
        """Makes one product of matrices for every sample."""
        stop = start + len(block)
        torch.bmm(self.grads[start:stop].transpose(1, 2), self.inputs[start:stop], out=block)

    def total(self, memory: Memory) -> Tensor:
        """Returns the product of matrices that sums over samples and positions."""
        return self.grads.flatten(0, 1).t() @ self.inputs.flatten(0, 1)

    def moments(self, memory: Memory, total: Tensor | None = None, out: Tensor | None = None) -> Moments:
        """Returns the moments; from few positions without forming the terms.

        The square of a sum over positions is a sum over pairs of them: Σ_n Σ_st (G_ns G_nt)(x_ns x_nt)ᵀ, with
        products element by element, which is one product of matrices.
        """
        pairs = self.positions * (self.positions + 1) // 2
        if pairs > MOST_PAIRS:
            return (
                self._compiled(memory) if self.grads.is_cpu and overhang(self.grads.dtype) else super().moments(memory)
            )
        if pairs == 1:
            grads, inputs = (
                torch.mul(one, one, out=memory.take(purpose, one.shape, one))
                for purpose, one in (("grads", self.grads[:, 0]), ("inputs", self.inputs[:, 0]))
            )
        else:
            s, t = torch.triu_indices(self.positions, self.positions, device=self.grads.device)
            twice = torch.where(s == t, 1.0, 2.0).to(self.grads)[:, None]
            grads = (self.grads[:, s] * self.grads[:, t] * twice).flatten(0, 1)
            inputs = (self.inputs[:, s] * self.inputs[:, t]).flatten(0, 1)
        fits = out is not None and out.dtype is grads.dtype and out.is_contiguous()
        squares = torch.mm(grads.t(), inputs, out=out if fits else None)
        return self.of_sums(self.total(memory) if total is None else total, squares)

    def _compiled(self, memory: Memory) -> Moments:
        """Returns the moments by compiled code, in which a term stays in the processor's registers."""
        inputs, step = self.inputs, overhang(self.inputs.dtype)
        if inputs.stride(2) != 1 or self.shape[1] % step:
            inputs = memory.take("inputs", (inputs.numel() + step,), inputs)[: inputs.numel()].view(inputs.shape)
            inputs.copy_(self.inputs)
        total, squares = (inputs.new_zeros(self.shape) for _ in range(2))
        places = array("q", range(0, self.positions * inputs.stride(1), inputs.stride(1)))
        add_products(self.grads.transpose(1, 2), inputs, places, array("q", [0]), self.shape[1], total, squares)
        return self.of_sums(total, squares)


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
        unique, inverse = torch.unique(places, return_inverse=True)
        self.grads = grads.new_zeros(len(unique), grads.shape[1]).index_add_(0, inverse, grads)
        self.samples, self.rows = unique // height, unique % height

    def like(self) -> Tensor:
        """Returns the gradients."""
        return self.grads

    def fill(self, block: Tensor, start: int, memory: Memory) -> None:
        """Puts the gradients at their places."""
        here = (self.samples >= start) & (self.samples < start + len(block))
        block.zero_()
        block[self.samples[here] - start, self.rows[here]] = self.grads[here]

    def total(self, memory: Memory) -> Tensor:
        """Returns the sum."""
        return self.grads.new_zeros(self.shape).index_add_(0, self.rows, self.grads)

    def moments(self, memory: Memory, total: Tensor | None = None, out: Tensor | None = None) -> Moments:
        """Returns the moments, from squared differences; a sample without a row is as far from its mean as zero."""
        total = self.total(memory) if total is None else total
        mean = total / self.count
        named = torch.bincount(self.rows, minlength=self.shape[0])[:, None]
        deviations = mean.square().mul_(self.count - named)
        deviations.index_add_(0, self.rows, (self.grads - mean[self.rows]).square_())
        return Moments(self.count, total, deviations.mul_(self.count / (self.count - 1)))


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
            together = Outer(
                torch.cat([part.grads for part in outer], 1), torch.cat([part.inputs for part in outer], 1)
            )
        else:
            together = Together(parts)
        together.coarse = any(part.coarse for part in parts)
        return together

    def like(self) -> Tensor:
        """Returns one of the parts' tensors."""
        return self.parts[0].like()

    def extra(self) -> int:
        """As much as the most demanding part, and its term."""
        return max(part.extra() for part in self.parts) + math.prod(self.shape)

    def fill(self, block: Tensor, start: int, memory: Memory) -> None:
        """Adds up the parts' terms."""
        block.zero_()
        for part in self.parts:
            own = block.new_empty(len(block), *part.layout())
            part.fill(own, start, memory)
            for sum_, term in zip(block, own, strict=True):
                sum_.add_(part.arranged(term))
