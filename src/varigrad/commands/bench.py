"""`varigrad bench`: one step of every optimizer, timed against torch's."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def bench_command(
    shapes: Annotated[
        str,
        typer.Option(
            help="Whose parameters, separated by commas: [bold]resnet50[/bold], [bold]gpt2[/bold], [bold]one[/bold] "
            "large tensor, or a thousand [bold]small[/bold] ones.",
            metavar="NAMES",
        ),
    ] = "resnet50",
    parameters: Annotated[
        str,
        typer.Option(help="How many parameters one and small have, separated by commas: 1e3 to 5e8.", metavar="N,..."),
    ] = "1e6",
    optimizers: Annotated[
        str, typer.Option(help="Which optimizers, separated by commas, or [bold]all[/bold].", metavar="NAMES")
    ] = "all",
    ways: Annotated[
        str,
        typer.Option(help="Which ways: loop, foreach, fused, or [bold]all[/bold].", metavar="NAMES"),
    ] = "all",
    dtype: Annotated[
        str, typer.Option(help="Of parameters and gradients: float32, bfloat16, float16, float64.", metavar="NAME")
    ] = "float32",
    state_dtype: Annotated[
        str | None,
        typer.Option(help="bfloat16: the state of our optimizers in half the memory.", metavar="NAME"),
    ] = None,
    rounding: Annotated[
        str,
        typer.Option(help="Of our 16-bit parameters: stochastic, kahan or nearest.", metavar="NAME"),
    ] = "stochastic",
    rounds: Annotated[str, typer.Option(help="How often each is timed.", metavar="N")] = "15",
    threads: Annotated[str | None, typer.Option(help="CPU threads.", show_default="PyTorch's", metavar="N")] = None,
    device: Annotated[str, typer.Option(help="[bold]cpu[/bold], cuda, cuda:1.", metavar="NAME")] = "cpu",
    json: Annotated[
        Path | None, typer.Option("--json", help="Write everything that was measured as JSON.", metavar="FILE")
    ] = None,
    png: Annotated[Path | None, typer.Option("--png", help="Write a picture.", metavar="FILE")] = None,
) -> None:
    """Time one step of every optimizer, in every way, against torch's fused AdamW.

    Each is timed in turns with AdamW, a copy and an addition on the same tensors.
    So a change of the machine's speed meets all of them.
    Shown are medians of the ratios, with the range of their middle half.

    [bold]Examples[/bold]

    All optimizers on the parameters of a ResNet-50:

        [cyan]varigrad bench[/cyan]

    VSGD and torch's own on one large tensor and on a thousand small ones, with a picture:

        [cyan]varigrad bench --shapes one,small --parameters 1e5,1e7[/cyan]
            [cyan]--optimizers vsgd,adamw,sgd --png bench.png[/cyan]

    bfloat16 weights and state on the parameters of GPT-2, compiled code only:

        [cyan]varigrad bench --shapes gpt2 --dtype bfloat16 --state-dtype bfloat16[/cyan]
            [cyan]--ways fused --json bench.json[/cyan]
    """
    from varigrad.lab import machine, options
    from varigrad.lab.bench import run
    from varigrad.lab.files import require_writable_file

    settings = run.Settings.parse(shapes, parameters, optimizers, ways, dtype, state_dtype, rounding, rounds, device)
    thread_count = None if threads is None else options.parse_count(threads, "--threads", 1024)
    for path, option in ((json, "--json"), (png, "--png")):
        if path is not None:
            require_writable_file(path, option)
    progress, results = Console(stderr=True, highlight=False), Console(highlight=False)
    with machine.cpu_threads(thread_count):
        run.bench(settings, shlex.join(["varigrad", *sys.argv[1:]]), progress, results, json, png)
