"""What the figures of a run say, in plain sentences with their numbers."""

from __future__ import annotations

import math

from varigrad.lab.noise.findings import Findings

__all__ = ["advice", "basis", "number"]

FEWEST = 8
"""Looks in the second half of a run below which a spread between them says little."""


def advice(found: Findings) -> list[str]:
    """Sentences on the batch, the learning rate and the layers, the most important first."""
    return [_on_the_batch(found), *_on_layers(found)]


def _on_the_batch(found: Findings) -> str:
    whole = found.whole
    if not whole.noise > 0:
        return "The gradients had no noise: nothing can be said of the batch."
    low, high = whole.interval
    times, scale = number(whole.batches), _samples(found, whole.batches)
    span = f"95 % interval {_samples(found, low).split()[0]} to {_samples(found, high)}"
    if whole.signal + 1.96 * whole.error < 0:
        cosine = whole.signal / (whole.signal + whole.noise) if whole.signal + whole.noise > 0 else -1.0
        return (
            f"The gradients of successive steps point against each other (cosine {cosine:.2f}): steps overshoot. Try a "
            "lower learning rate; the batch cannot be judged before."
        )
    if found.settled < FEWEST:
        return (
            f"{found.settled} looks are too few to judge the batch (at least {FEWEST} are needed in the second half of "
            "the run): look more often, with a smaller `every` for the monitor. So far the noise scale is "
            f"{scale} ({span})."
        )
    if high == math.inf:
        if low == math.inf:
            return "No signal can be told from the noise: the batch could be larger, by a factor that nothing bounds."
        larger = f"the batch could be at least {number(low)} × larger before returns diminish"
        more = larger if low > 2 else "a longer look would tell more"
        return f"The signal cannot be told from zero: the noise scale is at least {_samples(found, low)}; {more}."
    cost = (
        f"As it is, a run takes about {number(1 + whole.batches)} times the fewest steps possible and "
        f"{number(1 + 1 / whole.batches)} times the fewest samples."
    )
    if low > 2:
        return (
            f"The batch could be {times} × larger before returns diminish: the noise scale is {scale} ({span}). {cost}"
        )
    if high < 0.5:
        return (
            f"The batch is {number(1 / whole.batches)} times the noise scale, which is {scale} ({span}): a smaller one "
            f"would need fewer samples for hardly more steps. {cost}"
        )
    return f"The batch is of the order of the noise scale, which is {scale} ({span}). {cost}"


def _on_layers(found: Findings) -> list[str]:
    dead = [layer.name for layer in found.layers if layer.estimate.noise == 0]
    faint = {}
    for layer in found.layers:
        part = layer.estimate
        if part.noise > 0 and part.signal < 1.96 * part.error and found.settled >= FEWEST:
            most = math.sqrt(max(part.signal + 1.96 * part.error, 0.0) / part.noise)
            if most < 0.5 * found.whole.snr:
                faint[layer.name] = most
    said = []
    if dead:
        said.append(f"These layers receive no gradient at all: {_listed(dead)}.")
    if faint:
        listed = _listed([f"{name} (at most {number(most)})" for name, most in faint.items()])
        said.append(
            f"These layers receive no signal that can be told from noise: {listed}, where the signal-to-noise ratio of "
            f"all layers together is {number(found.whole.snr)}."
        )
    return said


def basis(found: Findings) -> str:
    """What the sentences rest on."""
    first, last = found.steps
    batch = "batch size unknown" if found.batch_size is None else f"batch {found.batch_size:g}"
    source = {
        "in-batch": "from the variance inside the mini-batch",
        "pair": "from the gradients of two successive steps, which take the motion of the weights for noise",
    }.get(found.source, f"from {found.source}")
    return (
        f"{found.optimizer}, {batch}, {found.looks} looks from step {first:,} to {last:,}; signal and noise {source}; "
        f"sentences and table are of the last {found.settled} looks."
    )


def _samples(found: Findings, batches: float) -> str:
    if found.batch_size is None:
        return f"{number(batches)} batches"
    return f"{number(batches * found.batch_size)} samples"


def _listed(names: list[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def number(value: float) -> str:
    """A number with two digits, or all before the point.

    Example:
        >>> number(1234.5), number(12.34), number(3.456), number(0.01234)
        ('1,234', '12', '3.5', '0.012')
    """
    if not math.isfinite(value):
        return "-" if math.isnan(value) else "∞"
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"
