"""The pictures of tunings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from varigrad.lab.report.cells import percent
from varigrad.lab.report.pictures import LINE_STYLES, empty, label
from varigrad.lab.report.series import loss_ceiling
from varigrad.lab.report.tuning_series import HIGHEST_TAU, bars, profiles, sensitivity
from varigrad.lab.tuning.tune import Tuning


def target_bars(tuning: Tuning) -> Figure:
    """Time to target, in steps and in seconds: median, and range over the seeds."""
    figure, panels = empty(2)
    for axes, measure in zip(panels, ("steps", "seconds"), strict=True):
        found = bars(tuning, measure)
        for place, bar in enumerate(found):
            if math.isfinite(bar.median):
                axes.barh(place, bar.median, color=bar.colour, height=0.6)
                end = bar.high if math.isfinite(bar.high) else bar.median
                axes.plot([bar.low, end], [place, place], color="#444444", linewidth=1.2)
            else:
                axes.annotate("never", (0, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.set_yticks(range(len(found)), [bar.name for bar in found])
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.set_xlim(0, None)
        label(axes, f"{measure} to {percent(tuning.target)} % test accuracy", "")
    figure.suptitle(
        f"{tuning.task.label}: median and range of {len(tuning.seeds)} seeds", fontsize=11, x=0.01, ha="left"
    )
    return figure


def trials(tuning: Tuning) -> Figure:
    """Validation loss of every trial over its learning rate."""
    figure, (axes,) = empty(1)
    series = sensitivity(tuning)
    ceiling = loss_ceiling(series)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for line, tuned in zip(series, tuning.tuned, strict=True):
        shown = [(x, y) for x, y in zip(line.x, line.mean, strict=True) if y <= ceiling]
        axes.plot(
            [x for x, _ in shown],
            [y for _, y in shown],
            LINE_STYLES[line.dash],
            color=line.colour,
            label=line.name,
            marker="o",
            markersize=4,
            linewidth=1.2,
        )
        for best in (study.winner for study in tuned.studies):
            if best.run.final.validation_loss <= ceiling:
                place = [best.point.lr], [best.run.final.validation_loss]
                axes.scatter(*place, s=120, facecolors="none", edgecolors=line.colour, lw=1.6)
        beyond = [x for x, y in zip(line.x, line.mean, strict=True) if not y <= ceiling]
        axes.plot(beyond, [ceiling] * len(beyond), linestyle="none", marker="^", color=line.colour, clip_on=False)
    axes.set_ylim(None, ceiling)
    label(axes, "learning rate", "validation loss at the end")
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside right center")
    figure.suptitle(f"{tuning.task.label}: all trials", fontsize=11, x=0.01, ha="left")
    axes.set_title("ring: the winner; triangle: diverged, or off the scale", fontsize=8, color="#666666", loc="left")
    return figure


def profile(tunings: Sequence[Tuning], measure: str = "steps") -> Figure:
    """The performance profiles over all tasks and seeds."""
    figure, (axes,) = empty(1)
    for line in profiles(tunings, measure):
        style = LINE_STYLES[line.dash]
        axes.plot(line.x, line.mean, style, color=line.colour, label=line.name, linewidth=1.7)
    axes.set_xlim(1, HIGHEST_TAU)
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    label(axes, f"times the fewest {measure} to the target", "problems solved")
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside right center")
    names = ", ".join(tuning.task.label for tuning in tunings)
    title = f"{names}: performance profile over {len(tunings[0].seeds)} seeds"
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure
