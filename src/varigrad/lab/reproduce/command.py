"""`varigrad reproduce`, once its options are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from varigrad.lab.display import Display
from varigrad.lab.engines.plan import Plan
from varigrad.lab.errors import LabError
from varigrad.lab.files import write_bytes
from varigrad.lab.papers.paper import Item, Paper
from varigrad.lab.report.paper import PaperRow, paper_files
from varigrad.lab.reproduce import display
from varigrad.lab.reproduce.findings import SCALES, Findings
from varigrad.lab.reproduce.run import compute, find_items
from varigrad.lab.reproduce.trained import METRICS, Manner, train_item
from varigrad.lab.tasks import Task, find_task

_SEEDS = {"full": None, "tenth": 3, "smoke": 2}  # None: the item's


def require_scale(name: str) -> str:
    """A scale that exists.

    Raises:
        LabError: There is none of that name.
    """
    if name not in SCALES:
        raise LabError(f"--scale {name!r} does not exist (accepted: {', '.join(SCALES)})")
    return name


def seeds_of(item: Item, scale: str) -> int:
    """How many seeds an item is run with unless told otherwise."""
    return _SEEDS[scale] or item.seeds


def reproduce(
    names: str,
    scale: str,
    autocast: bool,
    seeds: Callable[[int], Sequence[int]],
    plan: Plan,
    folder: Path | None,
    provenance: Mapping[str, str],
    progress: Console,
    results: Console,
    out: Path | None,
) -> None:
    """Makes the items again that a name means, shows each and writes it.

    Args:
        names: `PAPER/ITEM`, or the beginning of several.
        scale: A key of `SCALES`.
        autocast: Whether training computes in bfloat16 what `torch.autocast` does.
        seeds: The seeds, from how many there are unless told otherwise.
        plan: What carries out runs, and where they are kept.
        folder: Where data lies.
        provenance: Where the results come from.
        progress: Where to show what is going on.
        results: Where to show what was found.
        out: Directory for a JSON file and a picture of each item, if any.

    Raises:
        LabError: There is no such item, nothing to run in it, nothing to train in it with `autocast`, or data is
            missing.
    """
    manner = Manner(scale, plan.device, autocast)
    for paper, item in find_items(names):
        if autocast and not item.cells:
            raise LabError(f"--autocast: {paper.name}/{item.name} trains no cells; leave it out")
        with Display(progress) as shown:
            findings = _findings(paper, item, manner, seeds, plan, folder, provenance, shown)
        results.print(display.table(findings))
        results.print()
        if out is not None:
            for path in write(findings, provenance, out):
                results.print(f"Wrote {path}", soft_wrap=True, markup=False)


def _findings(
    paper: Paper,
    item: Item,
    manner: Manner,
    seeds: Callable[[int], Sequence[int]],
    plan: Plan,
    folder: Path | None,
    provenance: Mapping[str, str],
    shown: Display,
) -> Findings:
    if not item.cells:
        return compute(paper, item, manner.scale, shown.say)
    began = time.perf_counter()
    loaded: dict[str, Any] = {}

    def data(task: Task) -> Any:
        if task.name not in loaded:
            loaded.clear()  # one data set at a time
            loaded[task.name] = task.data.load(folder).to(plan.device)
        return loaded[task.name]

    for name in dict.fromkeys(cell.task for cell in item.cells):
        data(find_task(name))  # what is missing is named before the first run
    engine = plan.engine(data, folder, provenance, shown.say)
    rows, curves, runs = train_item(
        item,
        manner,
        seeds(seeds_of(item, manner.scale)),
        engine,
        shown.show_progress,
        shown.show_plan,
        shown.show_run,
        shown.say,
    )
    seconds = time.perf_counter() - began
    return Findings(
        paper, item, manner.scale, tuple(rows), tuple(curves), seconds, tuple(runs), autocast=manner.autocast
    )


def _beside(findings: Findings) -> list[PaperRow]:
    """The rows as the report shows them; what a number measures, the end of its label, apart."""
    rows = []
    for row in findings.rows:
        cell, colon, metric = row.label.rpartition(": ")
        detail = row.detail
        if row.detail.startswith("lead in "):
            cell, metric, detail = row.label, row.detail, ""
        elif not colon:
            cell, metric = next(
                ((row.label.removesuffix(f", {name}"), name) for name in METRICS if row.label.endswith(f", {name}")),
                (row.label, "value"),
            )
        scale = "; ".join(filter(None, [findings.manner, detail]))
        judged = row.verdict or "no number"
        rows.append(PaperRow(cell, metric, row.expected, row.ours, row.low, row.high, judged, scale))
    return rows


def write(findings: Findings, provenance: Mapping[str, str], directory: Path) -> list[Path]:
    """Writes page, tables, pictures and JSON file of an item; each is whole or not there.

    Raises:
        LabError: Something cannot be written.
    """
    name = f"{findings.paper.name}-{findings.item.name}-{findings.scale}{'-autocast' if findings.autocast else ''}"
    title = f"{findings.paper.name}/{findings.item.name}: {findings.item.title}"
    pages = paper_files(name, title, findings.paper.reference, _beside(findings), provenance)
    contents = {directory / file: content for file, content in pages.items()}
    contents[directory / f"{name}.json"] = findings.to_json(provenance).encode("utf-8")
    if findings.curves:
        contents[directory / f"{name}.png"] = display.png(findings)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"cannot make the directory {directory}: {error.strerror or error}") from error
    for path, content in contents.items():
        write_bytes(path, content)
    return list(contents)
