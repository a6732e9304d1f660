"""What a comparison says, in plain words, and no more than it says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from varigrad.lab.comparison import Comparison, Contender, Rung
from varigrad.lab.spread import Spread


def summary(comparison: Comparison) -> str:
    """The one sentence to take home: who ends with the highest test accuracy, and whether that means anything."""
    return _ranking(
        comparison.contenders,
        "Highest test accuracy",
        measure=lambda rung: rung.test_accuracy,
        text=lambda spread: f"{spread.text(2, scale=100)} %",
        highest=True,
    )


def reading(comparison: Comparison) -> list[str]:
    """The summary and what else the numbers say, one or two sentences each."""
    said = [
        summary(comparison),
        _ranking(
            comparison.contenders,
            "Lowest test loss",
            measure=lambda rung: rung.test_loss,
            text=lambda spread: spread.text(4),
            highest=False,
        ),
        _cost(comparison.contenders),
    ]
    for contender in comparison.contenders:
        if contender.best.diverged:
            count = f"{contender.best.diverged} of {len(contender.best.runs)}"
            said.append(f"{contender.row.label}: {count} runs diverged even at its best learning rate.")
        elif contender.on_edge:
            said.append(
                f"{contender.row.label} was best at the outermost learning rate that was tried, {contender.best.lr:g}: "
                "it may do better beyond."
            )
    return said


def method(comparison: Comparison) -> list[str]:
    """How the numbers came about, one sentence each."""
    task, settings, seeds = comparison.task, comparison.settings, len(comparison.seeds)
    runs = sum(len(rung.runs) for contender in comparison.contenders for rung in contender.rungs)
    protocol = task.protocol if settings.schedule == "paper" else None
    if comparison.rates is None and protocol:
        rates = f"Every optimizer had the learning rates of {protocol.source}"
    elif comparison.rates is None:
        rates = (
            "Every optimizer had a ladder of seven learning rates, extended outward while its best was the outermost"
        )
    else:
        rates = f"Every optimizer had the learning rates {', '.join(f'{rate:g}' for rate in comparison.rates)}"
    schedule = {
        "cosine": "The rate rises linearly in the first steps and then falls to zero along a cosine.",
        "constant": "The rate stays constant during a run.",
        "paper": f"The rate falls in phases, as in {protocol.source}; {protocol.l1:g} times the sum of the "
        "parameters' absolute values is added to the loss."
        if protocol
        else "",
    }
    return [
        f"{runs:,} runs of {settings.steps:,} steps with {task.batch_size} images each; weight decay "
        f"{settings.weight_decay:g}. {schedule[settings.schedule]}"
        + (" Training computes in bfloat16 what torch.autocast does." if settings.autocast else ""),
        f"{rates}; the rate shown is the one with the lowest final loss on held-out validation data, averaged over "
        f"{seeds} seed{'s' if seeds > 1 else ''}. The test data had no say in that.",
        "A seed gives every optimizer the same initial weights, the same batches and the same augmentation. "
        "A run whose loss stops being finite counts as diverged and is never left out.",
        "Differences below one standard deviation over the seeds (the larger of the two) are called within noise.",
        "Times are those of optimizer.step() alone, the median over all steps, with the classes' default settings.",
    ]


def _ranking(
    contenders: Sequence[Contender],
    title: str,
    measure: Callable[[Rung], Spread],
    text: Callable[[Spread], str],
    highest: bool,
) -> str:
    results = sorted(
        ((contender.row.label, measure(contender.best)) for contender in contenders),
        key=lambda result: -result[1].mean if highest else result[1].mean,
    )
    (leader, best), others = results[0], results[1:]
    lead = f"{title}: {leader}, {text(best)}"
    if not others or not math.isfinite(best.mean):
        return f"{lead}."
    if best.std is None:
        return f"{lead}; a single seed shows no noise, so this says nothing about an order. Use --seeds 5."
    close = [name for name, spread in others if _within_noise(best, spread)]
    behind = [f"{name} ({text(spread)})" for name, spread in others if not _within_noise(best, spread)]
    parts = []
    if close:
        parts.append(f"{_list(close)} {'is' if len(close) == 1 else 'are'} level with it, within noise")
    if behind:
        parts.append(
            f"{_list(behind)} {'is' if len(behind) == 1 else 'are'} behind by more than one standard deviation"
        )
    return f"{lead}; {'; '.join(parts)}."


def _within_noise(one: Spread, other: Spread) -> bool:
    return abs(one.mean - other.mean) < max(one.std or 0.0, other.std or 0.0)


def _cost(contenders: Sequence[Contender]) -> str:
    order = sorted(contenders, key=lambda contender: contender.best.optimizer_ms)
    base = next((contender for contender in order if contender.row.name == "adamw"), order[0])
    times = []
    for contender in order:
        ratio = contender.best.optimizer_ms / base.best.optimizer_ms
        compared = "" if contender is base else f" ({ratio:.1f} × {base.row.label})"
        times.append(f"{contender.best.optimizer_ms:.3f} ms with {contender.row.label}{compared}")
    return f"An optimizer step takes {_list(times)}."


def _list(items: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))
