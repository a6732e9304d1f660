"""Draws the picture of a comparison that README and the site begin with, for light and for dark pages.

    python benchmarks/picture.py results/learning-rate/mnist-mlp.json docs/assets/comparison

Reads a record of `varigrad compare --json` and writes NAME-light.svg and NAME-dark.svg: the test error on the way, each
optimizer at its best learning rate, and what the learning rate does to the validation loss at the end. Lines are means
over the seeds, bands reach from the lowest seed to the highest. A digest of the record stands in the files, so that a
test can tell whether they are of it.
"""

import argparse
import hashlib
import io
import json
import math
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from varigrad.lab.report.series import colour

LABELS = {"vsgd": "VSGD", "constant-vsgd": "ConstantVSGD", "adamw": "AdamW", "sgd": "SGD"}
THEMES = {"light": ("#1d2b36", "#64727d"), "dark": ("#e6edf3", "#9aa7b2")}


def digest(record: Path) -> str:
    return hashlib.sha256(record.read_bytes()).hexdigest()


def draw(record, ink, faint):
    """The figure of a record, with lines and letters in these two colours."""
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, wspace=0.06)
    FigureCanvasSVG(figure)
    left, right = figure.subplots(1, 2)
    ends = []
    for row in record["optimizers"]:
        shade, label = colour(row["name"]), LABELS.get(row["name"], row["name"])
        (best,) = (rung for rung in row["rungs"] if rung["lr"] == row["best_lr"])
        curves = [run["curves"] for run in best["runs"]]
        steps = curves[0]["step"]
        errors = [[100 * (1 - value) for value in curve["test_accuracy"]] for curve in curves]
        ends.append((band(left, steps, list(zip(*errors, strict=True)), shade), label, shade))
        rates = [rung["lr"] for rung in row["rungs"]]
        losses = [[run["curves"]["validation_loss"][-1] or math.nan for run in rung["runs"]] for rung in row["rungs"]]
        band(right, rates, losses, shade, marker="o")
        chosen = sum(losses[rates.index(row["best_lr"])]) / len(losses[0])
        right.plot([row["best_lr"]], [chosen], "o", ms=11, mfc="none", mec=shade, mew=1.6)
    place(left, ends, steps[-1])
    left.set(yscale="log", title="Test error in per cent, over the steps", xlim=(0, steps[-1] * 1.24))
    left.set_ylim(0.9 * min(end for end, _, _ in ends), 9)
    left.set_xticks([0, steps[-1] // 3, 2 * steps[-1] // 3, steps[-1]])
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.yaxis.set_minor_formatter(NullFormatter())
    left.set_yticks([2, 4, 8])
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    right.set(xscale="log", yscale="log", title="Validation loss at the end, over the learning rate", ylim=(None, 0.16))
    right.set_yticks([0.05, 0.1])
    right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    right.yaxis.set_minor_formatter(NullFormatter())
    for axes in (left, right):
        axes.title.set(color=ink, size=11, ha="left", position=(0, 1))
        axes.tick_params(colors=faint, which="both", labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(faint)
        axes.grid(color=faint, alpha=0.18, lw=0.8)
        axes.set_facecolor("none")
    figure.patch.set_alpha(0.0)
    return figure


def band(axes, x, columns, shade, marker=None):
    """Draws mean and range of the columns; returns the last mean."""
    means = [sum(values) / len(values) for values in columns]
    axes.fill_between(x, [min(v) for v in columns], [max(v) for v in columns], color=shade, alpha=0.18, lw=0)
    axes.plot(x, means, color=shade, lw=2, marker=marker, ms=4)
    return means[-1]


def place(axes, ends, x):
    """Writes the names at the ends of the lines, apart from each other."""
    height = 0.0
    for end, label, shade in sorted(ends):
        height = max(end, height * 1.13)
        axes.annotate(label, (x, height), (6, 0), textcoords="offset points", color=shade, va="center", size=10)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("name", type=Path)
    options = parser.parse_args()
    record = json.loads(options.record.read_text("utf-8"))
    mpl.rcParams.update({"svg.hashsalt": "varigrad", "svg.fonttype": "path", "font.family": "DejaVu Sans"})
    for theme, (ink, faint) in THEMES.items():
        buffer = io.StringIO()
        note = f"python benchmarks/picture.py {options.record} {options.name}; sha256 {digest(options.record)}"
        draw(record, ink, faint).savefig(buffer, format="svg", metadata={"Date": None, "Description": note})
        path = options.name.with_name(f"{options.name.name}-{theme}.svg")
        path.write_text("\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n", "utf-8")
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
