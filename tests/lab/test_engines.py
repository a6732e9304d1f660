import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from varigrad.lab.data import Digits
from varigrad.lab.engines import queue as queues
from varigrad.lab.engines.here import Here
from varigrad.lab.engines.jobs import Job, Progress
from varigrad.lab.engines.plan import Plan
from varigrad.lab.engines.processes import Processes
from varigrad.lab.engines.queue import Queue
from varigrad.lab.engines.worker import carry_out
from varigrad.lab.errors import LabError
from varigrad.lab.optimizers import OPTIMIZERS
from varigrad.lab.store.folder import Store
from varigrad.lab.store.lease import Holder
from varigrad.lab.tasks import TASKS
from varigrad.lab.training import Run, Settings

from .made_data import names
from .made_runs import run

DATA = Digits().load(None)


def job(seed: int = 0, name: str = "sgd", steps: int = 24) -> Job:
    return Job(TASKS["digits"], OPTIMIZERS[name], 0.01, seed, Settings(steps))


def computed(run: Run) -> Run:
    return dataclasses.replace(run, optimizer_ms=0.0, steps_per_second=0.0, seconds=())


def done_by(engine, jobs: list[Job]) -> dict[tuple[str, int], Run]:
    found: dict[tuple[str, int], Run] = {}

    def on_run(job: Job, run: Run) -> list[Job]:
        assert (job.row.name, job.seed) not in found
        found[job.row.name, job.seed] = computed(run)
        follows = dataclasses.replace(job, seed=job.seed + 10)
        return [follows] if job.seed < 2 else []

    engine.run(jobs, on_run, lambda progress: None)
    return found


def failing() -> Job:
    return dataclasses.replace(job(99), row=dataclasses.replace(OPTIMIZERS["sgd"], arguments={"nonsense": 1}))


def test_worker_processes_one_of_them_killed_and_a_run_that_fails(tmp_path: Path, one_thread: None) -> None:
    """What a process does, all other things being what this process does: one test, for it takes seconds to begin."""
    jobs = [job(seed, name, steps=60) for name in ("sgd", "vsgd") for seed in (0, 1, 2)]
    here = done_by(Here(lambda task: DATA), jobs)
    assert len(here) == 10
    store = Store(tmp_path, checkpoint_seconds=0.05)
    engine = Processes(store, ["cpu", "cpu"], 1, None, {"command": "test"}, print)
    heard: list[Progress] = []
    found: dict[tuple[str, int], Run] = {}

    def on_progress(progress: Progress) -> None:
        if not heard:
            holder = Holder.read(store.directory(progress.job.specification.key) / "lease.json")
            if holder is not None:
                os.kill(holder.pid, signal.SIGKILL)
        heard.append(progress)

    def on_run(job: Job, run: Run) -> list[Job]:
        assert (job.row.name, job.seed) not in found
        found[job.row.name, job.seed] = computed(run)
        return [dataclasses.replace(job, seed=job.seed + 10)] if job.seed < 2 else []

    with pytest.raises(LabError) as caught:
        engine.run([failing(), *jobs], on_run, on_progress)
    assert found == here
    assert {progress.worker for progress in heard} == {0, 1}
    assert "digits, sgd, lr 0.01, seed 99: TypeError: " in str(caught.value)
    assert f"(see {store.directory(failing().specification.key) / 'error.txt'})" in str(caught.value)
    assert [entry.status for entry in store.entries()].count("done") == 10
    environment = (store.directory(job(0, steps=60).specification.key) / "environment.json").read_text()
    assert '"runs at once": "2"' in environment
    assert '"command": "test"' in environment


def set_up(store: Path) -> dict[str, object]:
    common = {"store": str(store), "checkpoint_seconds": 1.0, "data": None, "device": "cpu", "threads": 1}
    return {**common, "names": {}, "environment": {"command": "test"}}


def test_what_a_worker_answers(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        told: list[int] = []
        values = dataclasses.asdict(job().specification)
        outcome = carry_out(set_up(tmp_path), values, lambda evaluation, speed: told.append(evaluation.step))
        assert outcome == {"kind": "done", "content": "", "notes": []}
        assert told[-1] == 24
        with Store(tmp_path).take(job(1).specification, {}):
            assert carry_out(set_up(tmp_path), dataclasses.asdict(job(1).specification))["kind"] == "leased"
        failed = carry_out(set_up(tmp_path), dataclasses.asdict(failing().specification))
        assert failed["kind"] == "failed"
        assert failed["content"].strip().splitlines()[-1].startswith("TypeError: ")
    finally:
        torch.set_num_threads(before)


def test_a_job_that_is_leased_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds the lease and dies; meanwhile the others are done."""
    monkeypatch.setattr(queues, "LEASED_SECONDS", 0.01)
    store = Store(tmp_path)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    first = dataclasses.replace(Holder.this_process(), pid=other.pid, started=_started(other.pid))
    path = store.directory(job().specification.key) / "lease.json"
    path.parent.mkdir()
    first.write(path)
    order: list[int] = []

    def on_run(job: Job, run: Run) -> list[Job]:
        order.append(job.seed)
        if job.seed == 1:
            other.kill()
            other.communicate()
        return []

    Here(lambda task: DATA, store).run([job(0), job(1)], on_run, lambda progress: None)
    assert order == [1, 0]


def _started(pid: int) -> float:
    import psutil

    return psutil.Process(pid).create_time()


def test_a_job_over_which_workers_keep_dying_has_failed(tmp_path: Path) -> None:
    queue = Queue(Store(tmp_path), lambda job, run: [])
    queue.add([job()])
    for death in range(queues.MOST_DEATHS - 1):
        queue.died(queue.next(), "Killed")
        if death == 1:
            queue.progressed(job(), 12)  # farther than ever: the deaths before count no more
            queue.progressed(job(), 12)
    queue.end()
    for _ in range(2):
        queue.died(queue.next(), "Killed")
        queue.progressed(job(), 12)  # no farther
    queue.died(queue.next(), "Killed")
    assert queue.is_empty()
    with pytest.raises(LabError, match="5 workers have died over it; the last said: Killed"):
        queue.end()


def test_a_failure_leaves_the_others_and_is_tried_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(LabError, match=r"seed 99: TypeError: .*; the same command tries again"):
        done_by(Here(lambda task: DATA, store), [failing(), job(5)])
    assert [entry.status for entry in store.entries()] == ["done", "failed"]
    with pytest.raises(TypeError):
        done_by(Here(lambda task: DATA), [failing()])


def test_the_same_run_twice_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"asked for twice: digits, sgd, lr 0\.01, seed 0"):
        Queue(None, lambda job, run: []).add([job(), job()])


def test_what_is_kept_is_done_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.take(job().specification, {}) as lease:
        store.finish(lease, run(0.01))
    engine = Processes(store, ["cpu"], 1, None, {"command": "test"}, print)  # no process is begun
    found: list[Run] = []
    engine.run([job()], lambda job, run: found.append(run) or [], lambda progress: pytest.fail("it was run"))
    assert found == [run(0.01)]


def test_plans(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(LabError, match=r"--engine 'slurm' does not exist \(accepted: local, ray\)"):
        Plan.parse("slurm", tmp_path / "runs", None, 1, cpu)
    with pytest.raises(LabError, match=r"--workers 0 is out of range"):
        Plan.parse("local", tmp_path / "runs", "0", 1, cpu)
    plan = Plan.parse("local", tmp_path / "runs", "1", 1, cpu)
    assert names(tmp_path) == []  # nothing is made before it is needed
    common = (lambda task: DATA, None, {"command": "test"}, print, {})
    assert isinstance(plan.engine(*common), Here)
    assert isinstance(dataclasses.replace(plan, workers=2).engine(*common), Processes)
