"""The samples' terms of a convolution's weight: a product of matrices over the patches of the input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Size, Tensor

from .terms import Memory, Terms

__all__ = ["Convolved"]


class Convolved(Terms):
    """The weight of a convolution, or of a transposed one, in any number of dimensions.

    In a convolution every output position takes a patch of the input through the weight; the weight's gradient is the
    sum over positions of output gradient times patch. A transposed convolution is the same with input and output
    exchanged: every input position gives a patch of the output.

    Args:
        whole: What the positions belong to, (M, channels, *positions): the output gradient, or a transposed
            convolution's input.
        patched: What the patches are cut from, (M, channels, *size), before padding.
        shape: The weight's shape, (channels of `whole`, channels of `patched` / groups, *kernel).
        stride: In every dimension.
        padding: On both sides, in every dimension.
        dilation: In every dimension.
        groups: Groups of channels.
    """

    def __init__(
        self,
        whole: Tensor,
        patched: Tensor,
        shape: Size,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> None:
        self.whole, self.patched = whole, patched
        self.count, self.shape = len(whole), shape
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self._frame: Tensor | None = None

    def like(self) -> Tensor:
        """Returns what the positions belong to."""
        return self.whole

    def layout(self) -> Size:
        """Returns the parameter's shape with the channels last: then a patch is made of long pieces of memory."""
        channels, width, *kernel = self.shape
        return Size((channels, *kernel, width))

    def arranged(self, tensor: Tensor) -> Tensor:
        """Returns it with the channels where the parameter has them."""
        return tensor.movedim(-1, 1)

    def extra(self) -> int:
        """The patches of one sample."""
        return self.patched.shape[1] * math.prod(self.shape[2:]) * math.prod(self.whole.shape[2:])

    def fill(self, block: Tensor, start: int, memory: Memory) -> None:
        """Cuts the patches of some samples and multiplies."""
        count, positions = len(block), self.whole.shape[2:]
        width, *kernel = self.shape[1:]
        source = self._padded(start, count)
        samples, *steps, channels = source.stride()
        patches = source.as_strided(
            (count, self.groups, *positions, *kernel, width),
            (
                samples,
                width * channels,
                *(step * stride for step, stride in zip(steps, self.stride, strict=True)),
                *(step * dilation for step, dilation in zip(steps, self.dilation, strict=True)),
                channels,
            ),
            source.storage_offset(),
        )
        columns = memory.take("patches", patches.shape, source).copy_(patches)
        columns = columns.view(count * self.groups, math.prod(positions), -1)
        rows = self.whole[start : start + count].reshape(count * self.groups, -1, columns.shape[1])
        torch.bmm(rows, columns, out=block.view(count * self.groups, rows.shape[1], -1))

    def _padded(self, start: int, count: int) -> Tensor:
        """Some samples with their channels last and zeros around them, in memory that is used again."""
        source = self.patched[start : start + count].movedim(1, -1)
        if not any(self.padding):
            return source.contiguous()
        if self._frame is None:
            sizes = [size + 2 * side for size, side in zip(source.shape[1:-1], self.padding, strict=True)]
            self._frame = source.new_zeros(count, *sizes, source.shape[-1])
        frame = inner = self._frame[:count]
        for dim, (size, side) in enumerate(zip(source.shape[1:-1], self.padding, strict=True), 1):
            inner = inner.narrow(dim, side, size)
        inner.copy_(source)
        return frame
