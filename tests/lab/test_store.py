import dataclasses
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from varigrad.lab.data import Digits
from varigrad.lab.engines.execute import execute
from varigrad.lab.engines.jobs import Job
from varigrad.lab.errors import LabError
from varigrad.lab.optimizers import OPTIMIZERS
from varigrad.lab.store import lease as leases
from varigrad.lab.store.folder import LeasedError, LeaseLostError, Store, require_store
from varigrad.lab.store.kept import KeptCheckpoints
from varigrad.lab.store.record import DamagedError, from_json, to_json
from varigrad.lab.store.specification import Specification
from varigrad.lab.tasks import TASKS
from varigrad.lab.training import Evaluation, Run, Settings, train

from .made_data import names
from .made_runs import diverged, run

DATA = Digits().load(None)


def job(name: str = "sgd", seed: int = 0, steps: int = 24, lr: float = 0.01) -> Job:
    return Job(TASKS["digits"], OPTIMIZERS[name], lr, seed, Settings(steps))


def made(store: Store, job: Job) -> Run:
    return execute(job, DATA, store, {"command": "test"}, lambda evaluation, speed: None)


def store_in(folder: Path, **more) -> tuple[Store, list[str]]:
    told: list[str] = []
    return Store(folder, tell=told.append, **more), told


def computed(run: Run) -> Run:
    return dataclasses.replace(run, optimizer_ms=0.0, steps_per_second=0.0, seconds=())


class Stopped(BaseException):
    pass


class StoppedAt:
    """Checkpoints at certain steps, in memory; the last ends the run as a kill would."""

    def __init__(self, *steps: int, state: dict | None = None) -> None:
        self.steps, self.state, self.asked = list(steps), state, 0

    def load(self) -> dict | None:
        return self.state

    def due(self) -> bool:
        self.asked += 1
        return self.asked in self.steps

    def save(self, state: dict) -> None:
        torch.save(state, "state")
        if self.asked == self.steps[-1]:
            raise Stopped


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on_to_the_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between two evaluations, then at one, each time in the middle of an epoch or behind one."""
    monkeypatch.chdir(tmp_path)
    task = dataclasses.replace(TASKS["digits"], evaluations=5)
    arguments = (task, DATA, OPTIMIZERS[name], OPTIMIZERS[name].rates[2], 3, Settings(40, weight_decay=0.01))
    undisturbed = train(*arguments)
    state = None
    for steps in ((4, 9), (7,), (20,)):  # 9, then 7 more: 16, at an evaluation, then 20 more
        with pytest.raises(Stopped):
            train(*arguments, checkpoints=StoppedAt(*steps, state=state))
        state = torch.load("state", weights_only=True)
    assert state["step"] == 36
    told: list[Evaluation] = []
    resumed = train(*arguments, lambda evaluation, speed: told.append(evaluation), StoppedAt(99, state=state))
    assert computed(resumed) == computed(undisturbed)
    assert len(resumed.seconds) == len(resumed.evaluations) == 5
    assert list(resumed.seconds) == sorted(resumed.seconds)
    assert [evaluation.step for evaluation in told] == [40]


def test_the_key_is_that_of_the_canonical_values() -> None:
    specification = job().specification
    again = Specification.read(json.loads(specification.canonical()))
    assert again == specification
    assert again.key == specification.key
    keys = {
        other.specification.key
        for other in (job(), job("adamw"), job(seed=1), job(steps=25), job(lr=0.02))
    }  # fmt: skip
    assert len(keys) == 5
    settings = (Settings(24, weight_decay=0.1), Settings(24, schedule="constant"))
    assert len({dataclasses.replace(job(), settings=one).specification.key for one in settings} | keys) == 7
    cast = dataclasses.replace(job(), settings=Settings(24, autocast=True))
    assert cast.specification.key not in keys
    assert Job.of(cast.specification, torch.device("cpu")).settings.autocast
    assert "autocast" not in job().specification.settings  # so that runs from before there was such a thing count
    row = dataclasses.replace(OPTIMIZERS["sgd"], arguments={"momentum": 0.99}, summary="other words")
    assert dataclasses.replace(job(), row=row).specification.key not in keys
    words = dataclasses.replace(OPTIMIZERS["sgd"], summary="other words")
    assert dataclasses.replace(job(), row=words).specification.key in keys
    assert dataclasses.replace(job(), lr=1).specification == dataclasses.replace(job(), lr=1.0).specification


def test_a_specification_has_what_the_job_had() -> None:
    row = dataclasses.replace(OPTIMIZERS["adam"], arguments={"betas": (0.8, 0.9)})
    specification = dataclasses.replace(job(), row=row).specification
    again = Job.of(Specification.read(json.loads(specification.canonical())), torch.device("cpu"))
    assert (again.task, again.row, again.lr, again.seed) == (TASKS["digits"], row, 0.01, 0)
    assert again.settings == Settings(24)
    assert again.specification == specification


@pytest.mark.parametrize("kept", [run(0.1, accuracy=1 / 3), diverged(0.1)], ids=["run", "diverged"])
def test_a_record_gives_back_every_bit(kept: Run) -> None:
    kept = dataclasses.replace(kept, seconds=tuple(0.1 * e.step for e in kept.evaluations))
    text = to_json(job().specification, kept)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert from_json(text) == (job().specification, kept)


def test_any_change_of_a_record_is_found() -> None:
    text = to_json(job().specification, run(0.1))
    for wrong in (text[:-9], "", "[]", text.replace("0.9", "0.8", 1), text.replace('"seed": 0', '"seed": 1')):
        with pytest.raises(DamagedError):
            from_json(wrong)


def test_a_run_is_made_once(tmp_path: Path) -> None:
    store, told = store_in(tmp_path / "store")
    first = made(store, job())
    assert made(store, job()) is not first
    assert made(Store(tmp_path / "store"), job()) == first  # times and all
    assert computed(first) == computed(train(TASKS["digits"], DATA, OPTIMIZERS["sgd"], 0.01, 0, Settings(24)))
    (entry,) = store.entries()
    assert (entry.status, entry.run, entry.specification) == ("done", first, job().specification)
    assert names(entry.directory) == ["environment.json", "result.json", "specification.json"]
    assert told == []


def test_a_process_that_lives_keeps_others_out_and_one_that_is_dead_does_not(tmp_path: Path) -> None:
    store, _ = store_in(tmp_path)
    specification = job().specification
    with store.take(specification, {}):
        with pytest.raises(LeasedError, match=f"being run by process {os.getpid()}"), store.take(specification, {}):
            pass
        assert [entry.status for entry in store.entries()] == ["running"]
        with pytest.raises(LabError, match="is being run by process"):
            store.remove(store.entries()[0])
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    holder = dataclasses.replace(leases.Holder.this_process(), pid=dead.pid)
    holder.write(store.directory(specification.key) / "lease.json")
    assert [entry.status for entry in store.entries()] == ["interrupted"]
    reused = dataclasses.replace(holder, pid=os.getpid(), started=holder.started - 100)
    reused.write(store.directory(specification.key) / "lease.json")  # the number is in use again, by another process
    made(store, job())
    assert [entry.status for entry in store.entries()] == ["done"]


def test_what_a_process_leaves_that_is_killed_as_it_finishes_a_run_is_deleted(tmp_path: Path) -> None:
    store, told = store_in(tmp_path)
    made(store, job())
    directory = store.directory(job().specification.key)
    whole = ["environment.json", "result.json", "specification.json"]
    (directory / "checkpoint").write_bytes(b"left")
    ours = leases.Holder.this_process()
    ours.write(directory / "lease.json")
    assert [entry.status for entry in store.entries()] == ["done"]
    assert names(directory) == sorted([*whole, "checkpoint", "lease.json"])  # its process is about to end the lease
    dataclasses.replace(ours, started=ours.started - 100).write(directory / "lease.json")
    assert [entry.status for entry in store.entries()] == ["done"]
    assert names(directory) == whole
    (directory / "checkpoint.previous").write_bytes(b"left")
    assert [entry.status for entry in store.entries()] == ["done"]
    assert names(directory) == whole
    assert told == []


def test_a_process_elsewhere_is_judged_by_its_heartbeat(tmp_path: Path) -> None:
    store, _ = store_in(tmp_path)
    path = store.directory(job().specification.key) / "lease.json"
    path.parent.mkdir()
    elsewhere = dataclasses.replace(leases.Holder.this_process(), host="elsewhere", pid=1)
    elsewhere.write(path)
    with pytest.raises(LeasedError, match="on elsewhere"), store.take(job().specification, {}):
        pass
    silent = time.time() - leases.SILENCE_SECONDS - 60
    os.utime(path, (silent, silent))
    with store.take(job().specification, {}):
        assert leases.Holder.read(path) != elsewhere
        heartbeat = leases.Heartbeat(path, leases.Holder.read(path), seconds=0.01)
        os.utime(path, (silent, silent))
        with heartbeat:
            while path.stat().st_mtime < silent + 30:
                time.sleep(0.01)


def test_who_has_lost_the_lease_writes_nothing(tmp_path: Path) -> None:
    store, _ = store_in(tmp_path, checkpoint_seconds=0.0)
    specification = job().specification
    path = store.directory(specification.key) / "lease.json"
    with store.take(specification, {}) as lease:
        other = dataclasses.replace(lease.holder, token="other")
        other.write(path)
        with pytest.raises(LeaseLostError):
            store.finish(lease, run(0.1))
        with pytest.raises(LeaseLostError):
            lease.checkpoints.save({"step": 1})
    assert leases.Holder.read(path) == other  # nor ends the other's
    assert names(path.parent) == ["environment.json", "lease.json", "specification.json"]


def interrupted(store: Store, stop: int) -> None:
    """Leave a run with checkpoints after each of its first steps."""
    original = KeptCheckpoints.save

    def save(self, state: dict) -> None:
        original(self, state)
        if state["step"] == stop:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeptCheckpoints, "save", save)
        with pytest.raises(Stopped):
            made(store, job())


@pytest.mark.parametrize("damage", [[], ["checkpoint"], ["checkpoint", "checkpoint.previous"]])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_gone_on_from(damage: list[str], tmp_path: Path) -> None:
    store, told = store_in(tmp_path, checkpoint_seconds=0.0)
    interrupted(store, 10)
    directory = store.directory(job().specification.key)
    for name in damage:
        content = bytearray((directory / name).read_bytes())
        content[len(content) // 2] ^= 1
        (directory / name).write_bytes(content)
    begun: list[int | None] = []
    original = KeptCheckpoints.load

    def load(self) -> dict | None:
        state = original(self)
        begun.append(state["step"] if state else None)
        return state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeptCheckpoints, "load", load)
        resumed = made(store, job())
    assert begun == [[10, 9, None][len(damage)]]
    assert computed(resumed) == computed(train(TASKS["digits"], DATA, OPTIMIZERS["sgd"], 0.01, 0, Settings(24)))
    assert [path.name for path in store.damaged()] == [f"{directory.name}.{name}.1" for name in damage]
    assert len(told) == len(damage)
    assert all("is set aside as" in line for line in told)


@pytest.mark.parametrize("file", ["result.json", "specification.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{}"])
def test_a_damaged_run_is_set_aside_never_deleted_never_counted(file: str, content: bytes, tmp_path: Path) -> None:
    store, told = store_in(tmp_path)
    first = made(store, job())
    made(store, job(seed=1))
    path = store.directory(job().specification.key) / file
    path.write_bytes(content)
    entries = store.entries()
    assert [entry.specification.seed for entry in entries] == [1]
    (aside,) = store.damaged()
    assert (aside / file).read_bytes() == content
    (line,) = told
    assert line.startswith(f"a damaged run is set aside as {aside}: {file} ")
    assert line.endswith("; it will be run again")
    again = made(store, job())
    assert computed(again) == computed(first)
    assert again.seconds != first.seconds
    path.write_bytes(content)
    store.entries()
    assert len(store.damaged()) == 2


def test_a_result_of_another_run_is_damage(tmp_path: Path) -> None:
    store, told = store_in(tmp_path)
    for seed in (0, 1):
        made(store, job(seed=seed))
    paths = [store.directory(job(seed=seed).specification.key) / "result.json" for seed in (0, 1)]
    paths[0].write_bytes(paths[1].read_bytes())
    assert store.result(job().specification) is None
    assert store.result(job(seed=1).specification) is not None
    assert "is of another run" in told[0]


def test_what_a_killed_process_left_is_no_damage(tmp_path: Path) -> None:
    store, told = store_in(tmp_path)
    directory = store.directory(job().specification.key)
    directory.mkdir()
    assert store.entries() == []
    (directory / ".result.json.0123.tmp").write_text("half")
    (directory / "lease.json").write_text("")
    made(store, job())
    assert names(directory) == ["environment.json", "result.json", "specification.json"]
    assert told == []


def test_a_failure_is_kept_and_tried_again(tmp_path: Path) -> None:
    store, _ = store_in(tmp_path)
    path = store.fail(job().specification, "Traceback\nValueError: no")
    assert path.read_text() == "Traceback\nValueError: no"
    assert [entry.status for entry in store.entries()] == ["failed"]
    made(store, job())
    assert [entry.status for entry in store.entries()] == ["done"]
    assert not path.exists()


def test_removed_is_gone(tmp_path: Path) -> None:
    store, _ = store_in(tmp_path)
    made(store, job())
    store.remove(store.entries()[0])
    assert store.entries() == []
    assert store.result(job().specification) is None


def test_what_is_no_store_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(LabError, match=r"--store .*file: not a folder"):
        Store(file)
    with pytest.raises(LabError, match="holds other things"):
        Store(tmp_path)
    assert names(tmp_path) == ["file"]
    later = Store(tmp_path / "later").folder / "store.json"
    later.write_text(json.dumps({"format": "varigrad-store", "version": 2}))
    with pytest.raises(LabError, match=r"written by a later varigrad \(store version 2; this one knows 1\); upgrade"):
        require_store(tmp_path / "later")
    for content in ("", "[]", '{"format": "other", "version": 1}'):
        later.write_text(content)
        with pytest.raises(LabError, match="is not that of a store"):
            require_store(tmp_path / "later")
    assert math.isfinite(Store(tmp_path / "new").checkpoint_seconds)
