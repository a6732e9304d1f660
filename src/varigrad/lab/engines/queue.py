"""What is still to do."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from varigrad.lab.engines.jobs import Job, OnRun
from varigrad.lab.errors import LabError
from varigrad.lab.store.folder import Store
from varigrad.lab.training import Run

LEASED_SECONDS = 1.0  # how long a job that another process works on is left alone
MOST_DEATHS = 5  # of workers over one job, between two steps at which it is evaluated


class Queue:
    """The jobs of a grid that are not done; what the store has is done at once.

    Args:
        store: Where runs are kept, if anywhere.
        on_run: Told every finished run; answers with the jobs that follow from it.
    """

    def __init__(self, store: Store | None, on_run: OnRun) -> None:
        self._store = store
        self._on_run = on_run
        self._waiting: deque[Job] = deque()
        self._leased: list[tuple[float, Job]] = []
        self._deaths: dict[str, int] = {}
        self._furthest: dict[str, int] = {}
        self._failures: list[str] = []
        self._seen: set[str] = set()

    def add(self, jobs: Iterable[Job]) -> None:
        """Put jobs at the end; what is there already, or kept, is not done again."""
        for job in jobs:
            if job.specification.key in self._seen:
                raise ValueError(f"the same run was asked for twice: {job.specification.title}")
            self._seen.add(job.specification.key)
            run = self._store.result(job.specification) if self._store else None
            if run is None:
                self._waiting.append(job)
            else:
                self.done(job, run)

    def next(self) -> Job | None:
        """The next job; None if there is none at the moment."""
        now = time.monotonic()
        if self._waiting:
            return self._waiting.popleft()
        for item in self._leased:
            if item[0] <= now:
                self._leased.remove(item)
                return item[1]
        return None

    def is_empty(self) -> bool:
        """Whether nothing waits; what is being done may still bring more."""
        return not self._waiting and not self._leased

    @property
    def count(self) -> int:
        """How many wait."""
        return len(self._waiting) + len(self._leased)

    def done(self, job: Job, run: Run) -> None:
        """A job is finished."""
        self.add(self._on_run(job, run))

    def leased(self, job: Job) -> None:
        """Another process works on a job: ask again in a while."""
        self._leased.append((time.monotonic() + LEASED_SECONDS, job))

    def progressed(self, job: Job, step: int) -> None:
        """A job has been evaluated; if it never came so far before, the deaths over it are forgotten."""
        key = job.specification.key
        if step > self._furthest.get(key, 0):
            self._furthest[key] = step
            self._deaths.pop(key, None)

    def died(self, job: Job, why: str) -> None:
        """A worker died over a job: another shall go on with it, unless too many have and it came no further."""
        key = job.specification.key
        self._deaths[key] = self._deaths.get(key, 0) + 1
        if self._deaths[key] < MOST_DEATHS:
            self._waiting.appendleft(job)
        else:
            self.failed(job, f"{MOST_DEATHS} workers have died over it; the last said: {why}")

    def failed(self, job: Job, told: str) -> None:
        """A job has raised an error, told by its traceback."""
        where = f" (see {self._store.fail(job.specification, told)})" if self._store else ""
        lines = told.strip().splitlines() or ["no word"]
        self._failures.append(f"{job.specification.title}: {lines[-1]}{where}")

    def end(self) -> None:
        """Say what failed.

        Raises:
            LabError: Something did.
        """
        if self._failures:
            count = len(self._failures)
            more = f"; {count - 1} more failed" if count > 1 else ""
            raise LabError(f"{self._failures[0]}{more}; the same command tries again, and keeps what is done")
