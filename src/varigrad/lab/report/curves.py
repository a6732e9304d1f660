"""The pictures of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from varigrad.lab.comparison import Comparison
from varigrad.lab.report.pictures import LINE_STYLES, empty, label
from varigrad.lab.report.series import Series, accuracy_limits, loss_ceiling, rate_curves, training_curves


def training(comparison: Comparison) -> Figure:
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
    return figure


def rates(comparison: Comparison) -> Figure:
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
    return figure


def _figure(comparison: Comparison, panels: int) -> tuple[Figure, Sequence[Axes]]:
    figure, axes = empty(panels)
    seeds = len(comparison.seeds)
    band = f"mean and range of {seeds} seeds" if seeds > 1 else "one seed"
    figure.suptitle(f"{comparison.task.label}: {comparison.task.summary} ({band})", fontsize=11, x=0.01, ha="left")
    return figure, axes


def _draw(axes: Axes, series: Sequence[Series], x_label: str, y_label: str, marker: str | None = None) -> None:
    for line in series:
        kept = line.finite()
        axes.fill_between(kept.x, kept.low, kept.high, color=line.colour, alpha=0.15, linewidth=0)
        axes.plot(
            kept.x,
            kept.mean,
            LINE_STYLES[line.dash],
            color=line.colour,
            label=line.name,
            linewidth=1.7,
            marker=marker,
            markersize=4,
        )
    label(axes, x_label, y_label)
