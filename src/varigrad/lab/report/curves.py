"""The pictures, as PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from varigrad.lab.comparison import Comparison
from varigrad.lab.report.series import Series, accuracy_limits, loss_ceiling, rate_curves, training_curves

_DOTS_PER_INCH = 150


def training_png(comparison: Comparison) -> bytes:
    """Training loss and test accuracy over the steps, each optimizer at its best learning rate."""
    figure, (left, right) = _figure(comparison, panels=2)
    losses = training_curves(comparison, "train_loss")
    _draw(left, losses, "step", "training loss")
    if any(line.finite().x for line in losses):  # a logarithmic axis with nothing on it cannot be drawn
        left.set_yscale("log")
    accuracies = training_curves(comparison, "test_accuracy")
    _draw(right, accuracies, "step", "test accuracy")
    target = comparison.task.target
    right.set_ylim(*accuracy_limits(accuracies, target))
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    right.axhline(target, color="#888888", linewidth=0.8, linestyle=(0, (2, 3)))
    right.annotate(
        "target",
        (0, target),
        xycoords=("axes fraction", "data"),
        xytext=(2, 2),
        textcoords="offset points",
        fontsize=8,
        color="#666666",
    )
    figure.legend(*right.get_legend_handles_labels(), frameon=False, loc="outside right center")
    return _png(figure)


def rates_png(comparison: Comparison) -> bytes:
    """How much the learning rate matters: final validation loss over the rates that were tried."""
    figure, (axes,) = _figure(comparison, panels=1)
    series = rate_curves(comparison)
    ceiling = loss_ceiling(series)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _draw(axes, series, "learning rate", "validation loss at the end", marker="o")
    for line, contender in zip(series, comparison.contenders, strict=True):
        best = contender.best
        if best.validation_loss.mean <= ceiling:
            axes.scatter(
                [best.lr], [best.validation_loss.mean], s=120, facecolors="none", edgecolors=line.colour, lw=1.6
            )
        beyond = [rate for rate, mean in zip(line.x, line.mean, strict=True) if not mean <= ceiling]
        axes.plot(beyond, [ceiling] * len(beyond), linestyle="none", marker="^", color=line.colour, clip_on=False)
    axes.set_ylim(None, ceiling)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside right center")
    axes.set_title("ring: chosen rate; triangle: diverged, or off the scale", fontsize=8, color="#666666", loc="left")
    return _png(figure)


def _figure(comparison: Comparison, panels: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(
        figsize=(1.8 + (5.2 if panels > 1 else 6.4) * panels, 4.4), dpi=_DOTS_PER_INCH, layout="constrained"
    )
    FigureCanvasAgg(figure)  # no pyplot: nothing global is touched, no window is ever opened
    seeds = len(comparison.seeds)
    band = f"mean and range of {seeds} seeds" if seeds > 1 else "one seed"
    figure.suptitle(f"{comparison.task.name}: {comparison.task.summary} ({band})", fontsize=11, x=0.01, ha="left")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _draw(axes: Axes, series: Sequence[Series], x_label: str, y_label: str, marker: str | None = None) -> None:
    styles = {"solid": "-", "dash": "--", "dot": ":"}
    for line in series:
        kept = line.finite()
        axes.fill_between(kept.x, kept.low, kept.high, color=line.colour, alpha=0.15, linewidth=0)
        axes.plot(
            kept.x,
            kept.mean,
            styles[line.dash],
            color=line.colour,
            label=line.name,
            linewidth=1.7,
            marker=marker,
            markersize=4,
        )
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color="#000000", alpha=0.08)
    axes.spines[["top", "right"]].set_visible(False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
