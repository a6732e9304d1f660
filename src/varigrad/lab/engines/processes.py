"""The engine of one machine: worker processes, each with its own runs."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from varigrad.lab.engines.jobs import Job, OnProgress, OnRun, Progress
from varigrad.lab.engines.queue import LEASED_SECONDS, Queue
from varigrad.lab.errors import LabError
from varigrad.lab.store.folder import Store
from varigrad.lab.training import Evaluation

_Event = tuple["_Process", "dict[str, Any] | None"]  # None: the process has ended
_MOST_STILLBORN = 3  # workers one after the other that end before they are ready


class Processes:
    """Runs jobs in worker processes. One that dies is replaced, and its run gone on from its last checkpoint.

    Args:
        store: Where runs are kept.
        devices: One for each worker, such as `["cpu", "cpu"]` or `["cuda:0", "cuda:1"]`.
        threads: CPU threads of each worker.
        data_folder: What the data of a task is loaded from.
        environment: What is kept with the runs, `"command"` at least.
        tell: Told in one line what a worker has found.
        names: For the names of tasks and optimizers those by which another process finds them, where they differ.
    """

    def __init__(
        self,
        store: Store,
        devices: Sequence[str],
        threads: int,
        data_folder: Path | None,
        environment: Mapping[str, str],
        tell: Callable[[str], None],
        names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._store = store
        self._devices = devices
        self._tell = tell
        self._set_up = {
            "store": str(store.folder.absolute()),
            "checkpoint_seconds": store.checkpoint_seconds,
            "data": None if data_folder is None else str(data_folder.absolute()),
            "threads": threads,
            "names": dict(names),
            "environment": {**environment, "runs at once": str(len(devices))},
        }

    def run(self, jobs: Sequence[Job], on_run: OnRun, on_progress: OnProgress) -> None:
        """Carry out the jobs and all that follow from them; the workers live no longer than this."""
        waiting = Queue(self._store, on_run)
        waiting.add(jobs)
        if waiting.is_empty():
            waiting.end()
            return
        events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        workers = [self._start(number, events) for number in range(min(len(self._devices), waiting.count))]
        stillborn = 0
        try:
            while not waiting.is_empty() or any(worker.job for worker in workers):
                for worker in workers:
                    if worker.idle and (job := waiting.next()) is not None:
                        worker.give(job)
                while len(workers) < min(len(self._devices), len([w for w in workers if w.job]) + waiting.count):
                    workers.append(self._start(len(workers), events))  # more jobs have come than there were
                try:
                    worker, message = events.get(timeout=LEASED_SECONDS / 4)
                except queue.Empty:
                    continue
                if message is None:
                    last_words = worker.end()
                    stillborn = 0 if worker.born else stillborn + 1
                    if stillborn >= _MOST_STILLBORN:
                        raise LabError(f"worker processes end before they begin; the last said: {last_words}")
                    if worker.job is not None:
                        self._after_death(worker.job, waiting, last_words)
                    workers[worker.number] = self._start(worker.number, events)
                else:
                    stillborn = 0
                    self._hear(worker, message, waiting, on_progress)
        finally:
            for worker in workers:
                worker.end()
        waiting.end()

    def _start(self, number: int, events: queue.SimpleQueue[_Event]) -> _Process:
        return _Process(number, {**self._set_up, "device": self._devices[number]}, events)

    def _hear(self, worker: _Process, message: dict[str, Any], waiting: Queue, on_progress: OnProgress) -> None:
        kind, content, job = message["kind"], message["content"], worker.job
        if kind == "ready":
            worker.born = worker.idle = True
        elif kind == "note":
            self._tell(content)
        elif job is None:
            raise AssertionError(f"a worker without a job says {kind}")
        elif kind == "evaluation":
            evaluation = Evaluation(**content["evaluation"])
            waiting.progressed(job, evaluation.step)
            on_progress(Progress(job, worker.number, evaluation, content["steps_per_second"]))
        else:
            worker.job = None
            if kind == "failed":
                waiting.failed(job, content)
            elif kind == "done" and (run := self._store.result(job.specification)) is not None:
                waiting.done(job, run)
            else:
                waiting.leased(job)

    def _after_death(self, job: Job, waiting: Queue, last_words: str) -> None:
        run = self._store.result(job.specification)  # it may have died just after it was done
        if run is None:
            waiting.died(job, last_words)
        else:
            waiting.done(job, run)


class _Process:
    """A worker process, its job, and a thread that listens to it."""

    def __init__(self, number: int, set_up: Mapping[str, Any], events: queue.SimpleQueue[_Event]) -> None:
        self.number = number
        self.job: Job | None = None
        self.idle = False
        self.born = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end()
        paths = os.pathsep.join(str(Path(path).absolute()) for path in sys.path if path)
        threads = str(set_up["threads"])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "varigrad.lab.engines.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            bufsize=1,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )
        threading.Thread(target=self._listen, args=(events,), daemon=True).start()
        self._send(set_up)

    def give(self, job: Job) -> None:
        """Let it carry out a job."""
        self.job, self.idle = job, False
        self._send(job.specification.values())

    def end(self) -> str:
        """End it, if it has not ended, and return its last words."""
        self._process.kill()
        self._process.wait()
        if self._errors.closed:
            return ""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        self._errors.close()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # what was not read by a dead process
                self._process.stdin.close()
        return lines[-1] if lines else f"nothing (exit code {self._process.returncode})"

    def _send(self, content: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has died, which the listening thread tells
            self._process.stdin.write(json.dumps(content) + "\n")

    def _listen(self, events: queue.SimpleQueue[_Event]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                try:
                    events.put((self, json.loads(line)))
                except ValueError:
                    break  # cut off as it died
        events.put((self, None))
