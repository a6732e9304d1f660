"""The samples' terms of a convolution's weight: a product of matrices over the patches of the input."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from array import array
from collections.abc import Sequence

import torch
from torch import Size, Tensor

from varigrad.engine.batch import add_products, overhang

from .arithmetic import Moments
from .terms import Memory, Terms

__all__ = ["Convolved"]

FRAME = 2**20
"""Elements of samples that are brought into order at a time."""


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
        source = self._padded(start, count, memory)
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

    def moments(self, memory: Memory, total: Tensor | None = None, out: Tensor | None = None) -> Moments:
        """Returns the moments; by compiled code, where there is some, no term and no patch is put into memory."""
        step = overhang(self.whole.dtype) if self.whole.is_cpu else 0
        if not step:
            return super().moments(memory)
        total, squares = (self.whole.new_zeros(self.layout()) for _ in range(2))
        width, *kernel = self.shape[1:]
        each = max(1, FRAME // max(1, self.patched[0].numel()))
        for start in range(0, self.count, each):
            source = self._padded(start, min(each, self.count - start), memory, step)
            places, pieces, length = _places(
                *(tuple(self.whole.shape[2:]), tuple(kernel), tuple(self.stride), tuple(self.dilation)),
                *(source.stride()[1:], width),
            )
            left = self.whole[start : start + each].flatten(2)
            add_products(left, source, places, pieces, length, total, squares, (self.groups, width))
        return self.of_sums(total, squares)

    def _padded(self, start: int, count: int, memory: Memory, beyond: int = 0) -> Tensor:
        """Some samples with their channels last and zeros around them, and memory to be read beyond the last one."""
        source = self.patched[start : start + count].movedim(1, -1)
        sizes = [size + 2 * side for size, side in zip(source.shape[1:-1], self.padding, strict=True)]
        shape = (count, *sizes, source.shape[-1])
        room = memory.take("frame", (math.prod(shape) + beyond,), source)
        frame = inner = room[: math.prod(shape)].view(shape)
        if any(self.padding):
            room.zero_()
        for dim, (size, side) in enumerate(zip(source.shape[1:-1], self.padding, strict=True), 1):
            inner = inner.narrow(dim, side, size)
        inner.copy_(source)
        return frame


@functools.lru_cache(maxsize=256)
def _places(
    positions: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    steps: tuple[int, ...],
    width: int,
) -> tuple[array[int], array[int], int]:
    """Where the patches of one sample lie.

    Args:
        positions: How many patches there are, in each dimension of space.
        kernel: The size of a patch.
        stride: From patch to patch.
        dilation: From element to element of a patch.
        steps: From element to element of the sample in memory, with the channels last.
        width: The channels of a patch.

    Returns:
        Where each patch begins; where its pieces begin, which lie in memory without gaps; and how long these are.
    """
    *space, channels = steps
    if dilation[-1] * space[-1] == width * channels:  # one row of a patch is one piece
        return _grid(positions, stride, space), _grid(kernel[:-1], dilation[:-1], space[:-1]), kernel[-1] * width
    return _grid(positions, stride, space), _grid(kernel, dilation, space), width


def _grid(sizes: Sequence[int], strides: Sequence[int], steps: Sequence[int]) -> array[int]:
    """The places in memory of the points of a grid, in order."""
    distances = [stride * step for stride, step in zip(strides, steps, strict=True)]
    return array("q", (sum(map(operator.mul, point, distances)) for point in itertools.product(*map(range, sizes))))
