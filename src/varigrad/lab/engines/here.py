"""The engine that needs nothing: one run after the other, in this process."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence

from varigrad.lab.data import Data
from varigrad.lab.engines.execute import execute
from varigrad.lab.engines.jobs import Job, OnProgress, OnRun, Progress
from varigrad.lab.engines.queue import LEASED_SECONDS, Queue
from varigrad.lab.errors import LabError
from varigrad.lab.store.folder import LeasedError, LeaseLostError, Store
from varigrad.lab.tasks import Task
from varigrad.lab.training import Evaluation


class Here:
    """Runs jobs in this process.

    Args:
        data: The data of a task, on the device of its jobs.
        store: Where runs are kept, if anywhere.
        environment: What is kept with them.
    """

    def __init__(
        self, data: Callable[[Task], Data], store: Store | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self._data = data
        self._store = store
        self._environment = {**(environment or {}), "runs at once": "1"}

    def run(self, jobs: Sequence[Job], on_run: OnRun, on_progress: OnProgress) -> None:
        """Carry out the jobs and all that follow from them, in this order."""
        queue = Queue(self._store, on_run)
        queue.add(jobs)
        while not queue.is_empty():
            job = queue.next()
            if job is None:
                time.sleep(LEASED_SECONDS / 4)
            else:
                self._run(job, queue, on_progress)
        queue.end()

    def _run(self, job: Job, queue: Queue, on_progress: OnProgress) -> None:
        def tell(evaluation: Evaluation, steps_per_second: float) -> None:
            on_progress(Progress(job, 0, evaluation, steps_per_second))

        try:
            run = execute(job, self._data(job.task), self._store, self._environment, tell)
        except (LeasedError, LeaseLostError):
            queue.leased(job)
        except LabError:
            raise
        except Exception:
            if self._store is None:
                raise
            queue.failed(job, traceback.format_exc())
        else:
            queue.done(job, run)
