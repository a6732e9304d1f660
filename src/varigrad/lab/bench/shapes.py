"""The parameter shapes that steps are timed on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from varigrad.lab.errors import LabError, unknown_name

Shapes = tuple[tuple[int, ...], ...]

LEAST, MOST = 1_000, 5 * 10**8
"""How many parameters there may be."""


def resnet50() -> Shapes:
    """ResNet-50 for ImageNet: 161 tensors, 25,557,032 parameters (He et al. 2016, Table 1)."""
    shapes: list[tuple[int, ...]] = []

    def convolution(inputs: int, outputs: int, size: int) -> None:
        shapes.extend(((outputs, inputs, size, size), (outputs,), (outputs,)))  # with its batch norm

    convolution(3, 64, 7)
    inputs = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            convolution(inputs, width, 1)
            convolution(width, width, 3)
            convolution(width, 4 * width, 1)
            if block == 0:
                convolution(inputs, 4 * width, 1)  # the shortcut
            inputs = 4 * width
    return (*shapes, (1000, inputs), (1000,))


def gpt2() -> Shapes:
    """The smallest GPT-2: 148 tensors, 124,439,808 parameters, the output tied to the input (Radford et al. 2019)."""
    width = 768
    norm: Shapes = ((width,), (width,))
    attention: Shapes = ((width, 3 * width), (3 * width,), (width, width), (width,))
    feed_forward: Shapes = ((width, 4 * width), (4 * width,), (4 * width, width), (width,))
    return ((50257, width), (1024, width), *(12 * (*norm, *attention, *norm, *feed_forward)), *norm)


def one(parameters: int) -> Shapes:
    """One tensor."""
    return ((parameters,),)


def small(parameters: int) -> Shapes:
    """A thousand tensors of the same size, or one less by one element."""
    size, more = divmod(parameters, 1000)
    return ((size + 1,),) * more + ((size,),) * (1000 - more)


NETWORKS: Mapping[str, Callable[[], Shapes]] = MappingProxyType({"resnet50": resnet50, "gpt2": gpt2})
SIZED: Mapping[str, Callable[[int], Shapes]] = MappingProxyType({"one": one, "small": small})
NAMES = (*NETWORKS, *SIZED)


def find_shapes(name: str, parameters: int) -> Shapes:
    """The shapes called `name`.

    Args:
        name: One of `NAMES`.
        parameters: How many parameters there shall be, where the shapes leave that open.

    Raises:
        LabError: There are none of that name.

    Example:
        >>> sum(math.prod(shape) for shape in find_shapes("gpt2", 0))
        124439808
    """
    if name in NETWORKS:
        return NETWORKS[name]()
    if name in SIZED:
        return SIZED[name](parameters)
    raise unknown_name("shapes", name, NAMES)


def parse_parameters(text: str) -> tuple[int, ...]:
    """Numbers of parameters, separated by commas, such as `"1e5,1e6"`.

    Raises:
        LabError: Something is no whole number between `LEAST` and `MOST`, or stands there twice.

    Example:
        >>> parse_parameters("1e5,250000")
        (100000, 250000)
    """
    accepted = f"(accepted: whole numbers from {LEAST} to {MOST:.0e}, separated by commas, such as 1e5,1e7)"
    numbers: list[int] = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError as error:
            raise LabError(f"--parameters {part.strip()!r} is not a number {accepted}") from error
        if not (LEAST <= value <= MOST and value == math.floor(value)):
            raise LabError(f"--parameters {part.strip()} is out of range {accepted}")
        if int(value) in numbers:
            raise LabError(f"--parameters {text}: {part.strip()} stands there twice (accepted: each once)")
        numbers.append(int(value))
    return tuple(numbers)
