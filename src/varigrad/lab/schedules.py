"""Learning-rate schedules, each a word: `cosine`, `constant`, `onecycle`, or `drops:` and where they are."""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Callable, Sequence

from varigrad.lab.errors import LabError

WARM_UP = 0.05  # share of the steps in which a cosine schedule rises to its rate
_RISE, _FIRST, _LAST = 0.3, 1 / 25, 1e-4 / 25  # of torch's OneCycleLR
_DROP = re.compile(r"(\d+)=([0-9.eE+-]+)")


def factor(schedule: str, steps: int) -> Callable[[int], float]:
    """What the learning rate is multiplied by in each step.

    Args:
        schedule: `"constant"`; `"cosine"`, a short linear warm-up, then down to 0; `"onecycle"`, up along a cosine
            for three tenths of the steps and down to almost 0, as torch's OneCycleLR; or `"drops:STEP=FACTOR,..."`,
            the factors that hold from those steps on.
        steps: Steps of the run, at least 1.

    Raises:
        LabError: There is no such schedule.

    Example:
        >>> halved = factor("drops:10=0.5,20=0.25", steps=30)
        >>> [halved(step) for step in (0, 9, 10, 19, 20, 29)]
        [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """
    if schedule == "constant":
        return lambda step: 1.0
    if schedule == "cosine":
        return _cosine(steps)
    if schedule == "onecycle":
        return _onecycle(steps)
    starts, factors = drops(schedule)
    return phases((0, *starts), (1.0, *factors))


def warm_up(steps: int) -> Callable[[int], float]:
    """The rise that a cosine schedule begins with, and no fall: for optimizers that need none."""
    rise = math.ceil(WARM_UP * steps)
    return lambda step: min(1.0, (step + 1) / rise)


def phases(starts: Sequence[float], factors: Sequence[float]) -> Callable[[int], float]:
    """Constant factors, each from its start on; the first start is 0."""
    return lambda step: factors[bisect.bisect_right(starts, step) - 1]


def drops(schedule: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The steps and factors of a `drops:` schedule.

    Raises:
        LabError: It is none, or the steps do not rise.
    """
    name, _, listed = schedule.partition(":")
    found = [_DROP.fullmatch(part.strip()) for part in listed.split(",")]
    if name == "drops" and all(found):
        starts = tuple(int(match[1]) for match in found if match)
        factors = tuple(float(match[2]) for match in found if match)
        if all(a < b for a, b in zip((0, *starts), starts, strict=False)) and all(0 <= f < math.inf for f in factors):
            return starts, factors
    raise LabError(
        f"schedule {schedule!r} does not exist (accepted: cosine, constant, onecycle, paper, or drops:STEP=FACTOR,... "
        "with rising steps, such as drops:10000=0.5,20000=0.25)"
    )


def stretched(schedule: str, ratio: float) -> str:
    """The same schedule for a run of `ratio` times as many steps.

    Example:
        >>> stretched("drops:10000=0.5,20000=0.25", 0.1)
        'drops:1000=0.5,2000=0.25'
    """
    if not schedule.startswith("drops:"):
        return schedule
    starts, factors = drops(schedule)
    moved: list[int] = []
    for start in starts:
        moved.append(max(math.ceil(start * ratio), moved[-1] + 1 if moved else 1))
    return "drops:" + ",".join(f"{start}={factor:g}" for start, factor in zip(moved, factors, strict=True))


def _cosine(steps: int) -> Callable[[int], float]:
    rise = math.ceil(WARM_UP * steps)

    def cosine(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return cosine


def _onecycle(steps: int) -> Callable[[int], float]:
    top, end = _RISE * steps - 1, steps - 1

    def onecycle(step: int) -> float:
        if step <= top:
            return _between(_FIRST, 1.0, step / top)
        return _between(1.0, _LAST, (step - top) / max(1e-9, end - top))

    return onecycle


def _between(start: float, stop: float, share: float) -> float:
    return stop + (start - stop) / 2 * (1 + math.cos(math.pi * min(1.0, share)))
