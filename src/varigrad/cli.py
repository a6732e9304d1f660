"""The command line `varigrad`: what its commands share, `compare` and `bench`; `varigrad.commands` has the others."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from varigrad.commands import shared
from varigrad.commands.doctor import doctor_command
from varigrad.commands.list import list_command
from varigrad.commands.noise import noise_command
from varigrad.commands.reproduce import reproduce_command
from varigrad.commands.runs import runs_command
from varigrad.commands.tune import tune_command
from varigrad.lab.errors import LabError
from varigrad.version import __version__

# Typer brings its own copy of Click, older releases import Click itself: the base of what both export is either's.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]


class OneLineErrors(TyperGroup):
    """A command group whose every error is one line on stderr: exit code 2, or 130 after Ctrl-C; never a traceback."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command and exit with its code."""
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except UsageError as error:
            _fail(getattr(error, "format_message", error.__str__)(), 2)
        except LabError as error:
            _fail(str(error), 2)
        except ModuleNotFoundError as error:
            if (error.name or "varigrad").split(".")[0] == "varigrad":
                raise
            _fail(f"{error.name} is not installed; the lab needs its extra: pip install 'varigrad[lab]'", 2)
        except typer.Abort:
            _fail("interrupted", 130)
        sys.exit(code if isinstance(code, int) else 0)

    def get_params(self, ctx: Any) -> Any:
        """The options of the group; that a switch takes a bool is not worth a column of the help."""
        return _without_type(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command, its switches without a type."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _without_type(command.get_params(ctx))
        return command

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run a command; turn Ctrl-C into an error of ours before Click prints an empty line for it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Abort from None


def _without_type(options: Any) -> Any:
    for option in options:
        if getattr(option, "is_flag", False):
            option.metavar = ""
    return options


def _fail(message: str, code: int) -> NoReturn:
    prefix = "varigrad: " if code == 130 else "varigrad: error: "
    print(prefix + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


app = typer.Typer(
    cls=OneLineErrors,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def varigrad(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Compare optimizers that treat the gradient as a noisy observation with those that do not.

    [bold]varigrad compare[/bold] trains one network with several of them and tells which did best.
    [bold]varigrad tune[/bold] tunes all with the same number of trials, and scores them.
    [bold]varigrad reproduce[/bold] makes the tables and figures of the papers again.
    [bold]varigrad runs[/bold] shows the runs that these keep, and removes them.
    [bold]varigrad noise[/bold] shows how noisy a training run was, and whether its batch was right.
    [bold]varigrad list[/bold] shows what can be trained, and with what.
    [bold]varigrad bench[/bold] times a step of each optimizer against torch's.
    [bold]varigrad doctor[/bold] tells what works on this machine, and how to mend what does not.

    [bold]Examples[/bold]

    Begin here: four optimizers on real data, in less than a minute, with a page to look at:

        [cyan]varigrad compare --out results[/cyan]

    What there is to compare, and what a command takes:

        [cyan]varigrad list[/cyan]
        [cyan]varigrad compare --help[/cyan]

    [bold]Data[/bold]

    The digits come with scikit-learn, and need nothing.
    Other data is read from the folder that --data-dir or VARIGRAD_DATA names.
    Without one it is downloaded from the Hugging Face hub, once.

    [bold]Exit codes[/bold]

    0: all went well. 1: doctor has found something broken. 130: Ctrl-C.
    2: it cannot be done, for the reason that stands in one line on stderr.
    """
    if version:
        print(f"varigrad {__version__}")
    elif ctx.invoked_subcommand is None:
        print(ctx.get_help())


@app.command("compare")
def compare_command(
    task: Annotated[
        str, typer.Option(help="What to train; see [bold]varigrad list[/bold].", metavar="NAME")
    ] = "digits",
    optimizers: Annotated[
        str,
        typer.Option(
            help="Which optimizers, separated by commas, or [bold]all[/bold]; those in FILE.py, or FILE.py:NAME, are "
            "of your own.",
            metavar="NAMES",
        ),
    ] = "vsgd,constant-vsgd,adamw,sgd",
    lr: Annotated[
        str | None,
        typer.Option(
            help="Learning rates, separated by commas. Without it every optimizer climbs a ladder of seven rates of "
            "its own, {1, 3} times powers of ten, which grows while its best rate is the outermost.",
            metavar="RATES",
            show_default="a ladder",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="How many runs for each rate (seeds 0, 1, ...), or a list of seeds, such as 0,7.",
            metavar="N|LIST",
            show_default="the task's: 5 for digits, 3 for others",
        ),
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="Optimizer steps per run.", show_default="the task's", metavar="N")
    ] = None,
    weight_decay: Annotated[
        str,
        typer.Option(
            help="Weight decay, the same number for all: decoupled for adamw, nadamw and varigrad's own, "
            "added to the gradient for the others.",
            metavar="NUMBER",
        ),
    ] = "0",
    glance: Annotated[str | None, shared.GLANCE] = None,
    schedule: Annotated[
        str,
        typer.Option(
            help="[bold]cosine[/bold] (short warm-up, then down to zero), [bold]constant[/bold], or [bold]paper[/bold] "
            "(the rates and settings of the paper that the task is from, where there is one).",
            metavar="NAME",
        ),
    ] = "cosine",
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Train through torch.compile: slower to start, faster after a minute."),
    ] = False,
    autocast: Annotated[bool, shared.AUTOCAST] = False,
    device: Annotated[
        str,
        typer.Option(
            help="[bold]auto[/bold] (a GPU if there is one), [bold]cpu[/bold], [bold]cuda[/bold], cuda:1, mps.",
            metavar="NAME",
        ),
    ] = "auto",
    threads: Annotated[
        str | None,
        typer.Option(help="CPU threads.", show_default="the task's, else PyTorch's", metavar="N"),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the data, laid out like the hub: FOLDER/ylecun/mnist and so on. "
            "Also VARIGRAD_DATA. Without either the data is downloaded from the hub. digits needs none.",
            metavar="FOLDER",
        ),
    ] = None,
    store: Annotated[Path, shared.STORE] = shared.DEFAULT_STORE,
    workers: Annotated[str | None, shared.WORKERS] = None,
    engine: Annotated[str, shared.ENGINE] = "local",
    json: Annotated[
        Path | None, typer.Option("--json", help="Write everything that was measured as JSON.", metavar="FILE")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write a page of HTML, pictures, tables and the JSON into this directory.",
            metavar="DIR",
        ),
    ] = None,
) -> None:
    """Train one network with several optimizers and compare them.

    Every optimizer gets the same initial weights, batches and number of learning rates.
    Its best rate is chosen on validation data; the results are measured on test data.
    Every run is kept in the store: the same command goes on where it was ended, and makes no run twice.

    [bold]Examples[/bold]

    Four optimizers on handwritten digits, in less than a minute, with a page to look at:

        [cyan]varigrad compare --out results[/cyan]

    Two optimizers, one learning rate, ten seeds, on MNIST from a folder:

        [cyan]varigrad compare --task mnist-mlp --data-dir ~/data[/cyan]
            [cyan]--optimizers vsgd,adamw --lr 0.003 --seeds 10[/cyan]

    All optimizers, for another program to read:

        [cyan]varigrad compare --optimizers all --json all.json[/cyan]
    """
    # What follows needs PyTorch and the rest; `--help` and a mistyped option do not wait for them.
    from varigrad.lab import machine, options, own
    from varigrad.lab.display import Display
    from varigrad.lab.engines import plan as carrying_out
    from varigrad.lab.grid import compare
    from varigrad.lab.report import outputs
    from varigrad.lab.report.reading import summary
    from varigrad.lab.report.table import table
    from varigrad.lab.tasks import find_task
    from varigrad.lab.training import Settings

    chosen = options.with_glance(find_task(task), glance)
    rows = options.parse_optimizers(optimizers)
    rates = options.parse_rates(lr)
    seed_list = options.parse_seeds(seeds, chosen.seeds)
    settings = Settings(
        steps=chosen.steps if steps is None else options.parse_count(steps, "--steps", 10**9),
        weight_decay=options.parse_weight_decay(weight_decay),
        schedule=options.require_schedule(schedule),
        device=machine.find_device(device),
        compiled=compiled,
        autocast=autocast,
    )
    if settings.schedule == "paper":
        rows = options.by_protocol(rows, chosen)
    thread_count = chosen.threads if threads is None else options.parse_count(threads, "--threads", 1024)
    outputs.require_writable(json, out)
    folder = shared.data_folder(data_dir)
    plan = carrying_out.Plan.parse(engine, store, workers, thread_count, settings.device)
    places = own.whereabouts([chosen.name, *(row.name for row in rows)])

    progress, results = Console(stderr=True, highlight=False), Console(highlight=False)
    with machine.cpu_threads(thread_count), Display(progress) as display:
        display.say(f"{chosen.name}: {chosen.summary}; data {chosen.data.whereabouts(folder)}")
        data = chosen.data.load(folder).to(settings.device)
        origin = machine.provenance(shlex.join(["varigrad", *sys.argv[1:]]), settings.device)
        comparison = compare(
            chosen,
            data,
            rows,
            seed_list,
            settings,
            rates,
            on_progress=display.show_progress,
            on_contender=display.show_contender,
            on_plan=display.show_plan,
            on_run=display.show_run,
            engine=plan.engine(lambda task: data, folder, origin, display.say, places),
        )
    origin["runs at once"] = str(plan.workers)
    results.print()
    results.print(table(comparison, results.width))
    results.print()
    results.print(Text(summary(comparison)))
    for path in outputs.write(comparison, origin, json, out):
        results.print(f"Wrote {path}", soft_wrap=True, markup=False)


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
    clock: Annotated[
        str,
        typer.Option(help="[bold]wall[/bold], or processor: where other programs are busy, too.", metavar="NAME"),
    ] = "wall",
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

    settings = run.Settings.parse(
        shapes, parameters, optimizers, ways, dtype, state_dtype, rounding, rounds, device, clock
    )
    thread_count = None if threads is None else options.parse_count(threads, "--threads", 1024)
    for path, option in ((json, "--json"), (png, "--png")):
        if path is not None:
            require_writable_file(path, option)
    progress, results = Console(stderr=True, highlight=False), Console(highlight=False)
    with machine.cpu_threads(thread_count):
        run.bench(settings, shlex.join(["varigrad", *sys.argv[1:]]), progress, results, json, png)


# In the order of the help: what most come for first.
app.command("tune")(tune_command)
app.command("reproduce")(reproduce_command)
app.command("runs")(runs_command)
app.command("noise")(noise_command)
app.command("list")(list_command)
app.command("bench")(bench_command)
app.command("doctor")(doctor_command)
