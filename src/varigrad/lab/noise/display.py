"""The heat map and the advice on the terminal."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from varigrad.lab.noise.advice import advice, basis, number
from varigrad.lab.noise.findings import Findings

__all__ = ["COLOURS", "display", "shade"]

COLOURS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
"""Dark for noise, bright for signal; they differ in brightness too, for those who cannot tell the colours apart."""

BOUNDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""The signal-to-noise ratios where one colour ends and the next begins."""


def shade(snr: float) -> int:
    """The number of the colour of a signal-to-noise ratio.

    Example:
        >>> shade(0.0), shade(0.3), shade(5.0)
        (0, 5, 8)
    """
    return sum(snr >= bound for bound in BOUNDS)


def display(found: Findings, width: int) -> RenderableType:
    """The page of the terminal: advice, heat map of layers over time, figures of the layers.

    Args:
        found: What is known of the run.
        width: Columns of the terminal.
    """
    names = max([len(layer.name) for layer in found.layers] + [len("layer")])
    names = min(names, width // 3)
    figures = [" snr", "noise scale", "certain"]
    cells = max(1, min(len(found.slices), width - names - sum(map(len, figures)) - 12))
    chosen = found.slices[-cells:]
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("layer", max_width=names, no_wrap=True, overflow="ellipsis")
    table.add_column(f"step {chosen[0].first:,} to {chosen[-1].last:,}", no_wrap=True)
    for figure in figures:
        table.add_column(figure.strip(), justify="right", no_wrap=True)
    for layer in found.layers:
        row = Text()
        for part in chosen:
            snr = part.layers[layer.name].snr
            row.append(" " if math.isnan(snr) else "█", style="" if math.isnan(snr) else COLOURS[shade(snr)])
        certain = "-" if math.isnan(layer.certain) else f"{100 * layer.certain:.0f} %"
        scale = number(layer.estimate.batches * (found.batch_size or 1.0))
        table.add_row(Text(layer.name), row, number(layer.estimate.snr), scale, certain)
    legend = Text("signal-to-noise ratio  ", style="dim")
    for index, colour in enumerate(COLOURS):
        legend.append("█", style=colour).append(f" {'<' if index == 0 else ''}{BOUNDS[max(index - 1, 0)]:g}  ")
    sentences = [Text(sentence) for sentence in advice(found)]
    return Group(*sentences, Text(), table, Text(), legend, Text(basis(found), style="dim"))
