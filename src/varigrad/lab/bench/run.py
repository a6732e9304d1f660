"""`varigrad bench` from its options to its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from varigrad.lab.bench import contenders, display, record, shapes, timing
from varigrad.lab.errors import LabError, unknown_name
from varigrad.lab.files import write_bytes, write_text
from varigrad.lab.machine import find_device, provenance
from varigrad.lab.options import parse_count

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
ROUNDINGS = ("stochastic", "kahan", "nearest")


@dataclass(frozen=True)
class Settings:
    """What is timed, and how.

    Attributes:
        cases: Names of shapes, each with a number of parameters (of no meaning for a network's).
        contenders: Who is timed.
        dtype: The name of the dtype of parameters and gradients.
        state_dtype: The name of the dtype of our optimizers' state, if it is not their own choice.
        rounding: How our optimizers round 16-bit parameters.
        rounds: How often each is timed.
        device: Where.
        clock: Which time is measured, of `timing.CLOCKS`.
    """

    cases: tuple[tuple[str, int], ...]
    contenders: tuple[contenders.Contender, ...]
    dtype: str
    state_dtype: str | None
    rounding: str
    rounds: int
    device: torch.device
    clock: str = "wall"

    @classmethod
    def parse(
        cls,
        names: str,
        parameters: str,
        optimizers: str,
        ways: str,
        dtype: str,
        state_dtype: str | None,
        rounding: str,
        rounds: str,
        device: str,
        clock: str = "wall",
    ) -> Settings:
        """The settings, from the options of the command line as they were written.

        Raises:
            LabError: One of them means nothing; the message says what is accepted.
        """
        chosen = list(dict.fromkeys(part.strip() for part in names.split(",") if part.strip()))
        if not chosen:
            raise LabError(f"--shapes {names!r}: no names (accepted: {', '.join(shapes.NAMES)})")
        sizes = shapes.parse_parameters(parameters)
        for name in chosen:
            if name not in shapes.NAMES:
                raise unknown_name("shapes", name, shapes.NAMES)
        if dtype not in DTYPES:
            raise LabError(f"--dtype {dtype!r} does not exist (accepted: {', '.join(DTYPES)})")
        if state_dtype not in (None, "bfloat16"):
            raise LabError(f"--state-dtype {state_dtype!r} does not exist (accepted: bfloat16)")
        if rounding not in ROUNDINGS:
            raise LabError(f"--rounding {rounding!r} does not exist (accepted: {', '.join(ROUNDINGS)})")
        where = find_device(device)
        if clock not in timing.CLOCKS or (clock == "processor" and where.type != "cpu"):
            raise LabError(f"--clock {clock!r} does not exist on {where} (accepted: wall; on a CPU processor, too)")
        ours: dict[str, Any] = {"rounding": rounding, "state_dtype": DTYPES[state_dtype] if state_dtype else None}
        return cls(
            tuple((name, size) for name in chosen for size in (sizes if name in shapes.SIZED else sizes[:1])),
            contenders.choose(optimizers, ways, ours),
            dtype,
            state_dtype,
            rounding,
            parse_count(rounds, "--rounds", 10_000),
            where,
            clock,
        )


def bench(
    settings: Settings, command: str, progress: Console, results: Console, json: Path | None, png: Path | None
) -> None:
    """Times everything, shows it, and writes the files that were asked for.

    Args:
        settings: What is timed, and how.
        command: The command line, for the record.
        progress: Where to say what is being timed.
        results: Where the table goes.
        json: Where to put the JSON, if anywhere.
        png: Where to put the picture, if anywhere.
    """
    origin = provenance(command, settings.device)
    timings: list[timing.Timing] = []
    skipped: list[timing.Skipped] = []
    for name, size in settings.cases:
        found = shapes.find_shapes(name, size)
        measured = timing.measure(
            settings.contenders, name, found, settings.rounds, DTYPES[settings.dtype], settings.device, settings.clock
        )
        for number, contender in enumerate(settings.contenders, 1):
            # One line written over, not a live display, whose thread would run beside what is timed.
            line = f"{name}: {contender.optimizer} {contender.way} ({number} of {len(settings.contenders)})"
            _tell(progress, line)
            one = next(measured)
            if isinstance(one, timing.Timing):
                timings.append(one)
            else:
                skipped.append(one)
        _tell(progress, "")
    about = f"{settings.dtype}, {settings.rounds} rounds, {origin['threads']} threads, {settings.device}"
    about += ", processor time" if settings.clock == "processor" else ""
    results.print(Text(f"torch {torch.__version__}, {origin['processor']}, {about}\n", style="dim"))
    results.print(display.table(timings, skipped, results.width))
    told = {name: getattr(settings, name) for name in ("dtype", "state_dtype", "rounding", "rounds", "clock")}
    text = record.to_json(timings, skipped, {**told, "device": str(settings.device)}, origin)
    image = display.picture(timings) if png else b""
    if json:
        write_text(json, text)
    if png:
        write_bytes(png, image)
    for path in (json, png):
        if path:
            results.print(f"Wrote {path}", soft_wrap=True, markup=False)


def _tell(progress: Console, line: str) -> None:
    if progress.is_terminal:
        progress.file.write(f"\r\x1b[2K{line[: progress.width - 1]}")
        progress.file.flush()
