"""The samples' terms of a convolution's weight: a product of matrices over the patches of the input."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Size, Tensor, matmul
from torch.nn import functional

from .terms import Terms

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

    def extra(self) -> int:
        """The patches of one sample."""
        return self.patched.shape[1] * math.prod(self.shape[2:]) * math.prod(self.whole.shape[2:])

    def block(self, start: int, stop: int) -> Tensor:
        """Cuts the patches of some samples and multiplies."""
        kernel, positions = self.shape[2:], self.whole.shape[2:]
        count, width = stop - start, self.patched.shape[1] // self.groups
        sides = [side for side in reversed(self.padding) for _ in range(2)]
        # Channels last: then a patch is made of long pieces of memory.
        source = functional.pad(self.patched[start:stop].movedim(1, -1), [0, 0, *sides]).contiguous()
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
        length = math.prod(positions)
        rows = self.whole[start:stop].reshape(count, self.groups, -1, length)
        terms = matmul(rows, patches.reshape(count, self.groups, length, -1))
        return terms.reshape(count, self.shape[0], *kernel, width).movedim(-1, 2)
