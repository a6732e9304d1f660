"""One run, through a store or without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from varigrad.lab.data import Data
from varigrad.lab.engines.jobs import Job
from varigrad.lab.store.folder import Store
from varigrad.lab.training import Evaluation, Run, train


def execute(
    job: Job,
    data: Data,
    store: Store | None,
    environment: Mapping[str, str],
    on_evaluation: Callable[[Evaluation, float], None],
) -> Run:
    """The run of a job: as it was kept, gone on from where it was left, or made from the beginning.

    Args:
        job: What to do.
        data: The task's data, on the job's device.
        store: Where the run is kept, if anywhere.
        environment: What is kept with it.
        on_evaluation: Told every evaluation that is made now, and the speed so far.

    Raises:
        LeasedError: Another process works on it.
        LeaseLostError: Another process took this one for dead and works on it now.
    """
    arguments = (job.task, data, job.row, job.lr, job.seed, job.settings, on_evaluation)
    if store is None:
        return train(*arguments)
    run = store.result(job.specification)
    if run is None:
        with store.take(job.specification, environment) as lease:
            run = store.result(job.specification)  # another may have finished it as its lease was waited for
            if run is None:
                run = train(*arguments, lease.checkpoints)
                store.finish(lease, run)
    return run
