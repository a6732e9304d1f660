"""The engine of many machines: a Ray cluster on which every run is a task of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from varigrad.lab.engines.jobs import Job, OnProgress, OnRun
from varigrad.lab.engines.queue import LEASED_SECONDS, Queue
from varigrad.lab.errors import LabError
from varigrad.lab.store.folder import Store

_DEATHS_FORGIVEN = 5  # of processes or machines over one run, by Ray; the run is gone on from its checkpoint


def require_ray() -> None:
    """Find out whether Ray is installed.

    Raises:
        LabError: It is not.
    """
    try:
        import ray  # noqa: F401
    except ModuleNotFoundError as error:
        raise LabError("--engine ray: ray is not installed: pip install 'varigrad[ray]'") from error


class Cluster:
    """Runs jobs on the Ray cluster that RAY_ADDRESS names, or on one it starts on this machine.

    All machines must see the store's folder, and the data folder if there is one, under the same path.

    Args:
        store: Where runs are kept.
        device: Kind of device a run takes: a GPU each for `"cuda"`.
        threads: CPU threads, and Ray's CPUs, that a run takes.
        data_folder: What the data of a task is loaded from.
        environment: What is kept with the runs, `"command"` at least.
        tell: Told in one line what a worker has found.
        names: For the names of tasks and optimizers those by which another process finds them, where they differ.
    """

    def __init__(
        self,
        store: Store,
        device: str,
        threads: int,
        data_folder: Path | None,
        environment: Mapping[str, str],
        tell: Callable[[str], None],
        names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._store = store
        self._tell = tell
        self._device = device
        self._threads = threads
        self._set_up = {
            "store": str(store.folder.absolute()),
            "checkpoint_seconds": store.checkpoint_seconds,
            "data": None if data_folder is None else str(data_folder.absolute()),
            "device": device,
            "threads": threads,
            "names": dict(names),
            "environment": {**environment, "runs at once": "as many as the cluster has room for"},
        }

    def run(self, jobs: Sequence[Job], on_run: OnRun, on_progress: OnProgress) -> None:
        """Carry out the jobs and all that follow from them; Ray tells of a run only when it is done."""
        import ray

        waiting = Queue(self._store, on_run)
        waiting.add(jobs)
        if waiting.is_empty():
            waiting.end()
            return
        started = not ray.is_initialized()
        if started:
            ray.init(log_to_driver=False, include_dashboard=False, logging_level="error")
        try:
            self._carry_out(waiting)
        finally:
            if started:
                ray.shutdown()
        waiting.end()

    def _carry_out(self, waiting: Queue) -> None:
        import ray

        remote = ray.remote(
            num_cpus=self._threads, num_gpus=1 if self._device == "cuda" else 0, max_retries=_DEATHS_FORGIVEN
        )(_execute)
        under_way: dict[Any, Job] = {}
        while under_way or not waiting.is_empty():
            while (job := waiting.next()) is not None:
                under_way[remote.remote(self._set_up, job.specification.values())] = job
            if not under_way:
                time.sleep(LEASED_SECONDS / 4)
                continue
            finished, _ = ray.wait(list(under_way), timeout=LEASED_SECONDS)
            for reference in finished:
                job = under_way.pop(reference)
                try:
                    outcome: dict[str, Any] = json.loads(ray.get(reference))
                except ray.exceptions.RayError as error:
                    waiting.died(job, str(error))
                    continue
                for note in outcome["notes"]:
                    self._tell(note)
                if outcome["kind"] == "failed":
                    waiting.failed(job, outcome["content"])
                elif outcome["kind"] == "done" and (run := self._store.result(job.specification)) is not None:
                    waiting.done(job, run)
                else:
                    waiting.leased(job)


def _execute(set_up: Mapping[str, Any], specification: Mapping[str, Any]) -> str:
    """Carry out a run in a process of the cluster; answers with what `carry_out` does, as JSON."""
    from varigrad.lab.engines.worker import carry_out

    return json.dumps(carry_out(set_up, specification))
