"""A worker: a process that carries out the runs it is told on its standard input, and tells of them on its output.

Both are lines of JSON. In come a set-up (`store`, `checkpoint_seconds`, `data`, `device`, `threads`, `names`,
`environment`) and then specifications, one at a time; out go `{"kind": "ready"}` for each that may come,
`evaluation`, `done`, `leased`, `failed` and `note`. The end of the input ends the process at once, wherever it is: a
store bears that.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import torch

from varigrad.lab import machine
from varigrad.lab.data import DataSource
from varigrad.lab.engines.execute import execute
from varigrad.lab.engines.jobs import Job
from varigrad.lab.store.folder import LeasedError, LeaseLostError, Store
from varigrad.lab.store.specification import Specification
from varigrad.lab.training import Evaluation


def main() -> None:
    """Work until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which then ends its workers
    told = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print shall not stand between the lines
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    _Worker(json.loads(lines.get()), told).work(lines)


def _listen(lines: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)  # the driver is gone


class _Worker:
    def __init__(self, set_up: dict[str, Any], told: TextIO) -> None:
        self._set_up = set_up
        self._told = told

    def work(self, lines: queue.SimpleQueue[str]) -> None:
        while True:
            self._tell("ready")
            outcome = carry_out(self._set_up, json.loads(lines.get()), self._tell_evaluation)
            for note in outcome["notes"]:
                self._tell("note", note)
            self._tell(outcome["kind"], outcome["content"])

    def _tell_evaluation(self, evaluation: Evaluation, steps_per_second: float) -> None:
        self._tell("evaluation", {"evaluation": asdict(evaluation), "steps_per_second": steps_per_second})

    def _tell(self, kind: str, content: object = None) -> None:
        try:
            self._told.write(json.dumps({"kind": kind, "content": content}) + "\n")
        except OSError:
            os._exit(0)  # nobody listens any more


def carry_out(
    set_up: Mapping[str, Any],
    specification: Mapping[str, Any],
    on_evaluation: Callable[[Evaluation, float], None] = lambda evaluation, steps_per_second: None,
) -> dict[str, Any]:
    """Make a run and keep it in the store, or find out why not.

    Args:
        set_up: As the worker is told it.
        specification: Of the run.
        on_evaluation: Told every evaluation, and the speed so far.

    Returns:
        `kind`, which is `"done"`, `"leased"` or `"failed"`; `content`, words that explain it; and `notes`, a list of
        lines on what was found damaged.
    """
    device = torch.device(set_up["device"])
    folder = Path(set_up["data"]) if set_up["data"] is not None else None
    torch.set_num_threads(set_up["threads"])
    environment = {**set_up["environment"], **machine.provenance(set_up["environment"]["command"], device)}
    notes: list[str] = []
    kind, content = "done", ""
    try:
        store = Store(Path(set_up["store"]), set_up["checkpoint_seconds"], notes.append)
        job = Job.of(Specification.read(specification), device, set_up["names"])
        execute(job, _data(job.task.data, folder, device), store, environment, on_evaluation)
    except (LeasedError, LeaseLostError) as error:
        kind, content = "leased", str(error)
    except Exception:
        kind, content = "failed", traceback.format_exc()
    return {"kind": kind, "content": content, "notes": notes}


def _data(source: DataSource, folder: Path | None, device: torch.device) -> Any:
    loaded = source.load(folder)
    return loaded if device.type == "cpu" else loaded.to(device)


if __name__ == "__main__":
    main()
