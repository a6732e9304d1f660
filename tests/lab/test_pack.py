"""Runs are carried from store to store in one file, and nothing damaged or newer is taken in."""

import json
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from varigrad.cli import app
from varigrad.lab.data import Digits
from varigrad.lab.engines.here import Here
from varigrad.lab.engines.jobs import Job
from varigrad.lab.errors import LabError
from varigrad.lab.optimizers import OPTIMIZERS
from varigrad.lab.store.folder import Store
from varigrad.lab.store.pack import pack, unpack
from varigrad.lab.store.record import _digest
from varigrad.lab.tasks import TASKS
from varigrad.lab.training import Settings

JOBS = [Job(TASKS["digits"], OPTIMIZERS["sgd"], 0.01, seed, Settings(4)) for seed in range(3)]
KEYS = [job.specification.key for job in JOBS]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("filled"))
    engine = Here(lambda task: Digits().load(None), store, {"command": "there"})
    engine.run(JOBS, lambda job, run: [], lambda progress: None)
    store.fail(Job(TASKS["digits"], OPTIMIZERS["sgd"], 0.01, 7, Settings(4)).specification, "no")
    return store


def runs(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["runs", *map(str, arguments)])


def changed(file: Path, name: str, content: bytes | None) -> None:
    """The file with another content, or none, under a name."""
    with zipfile.ZipFile(file) as archive:
        contents = {known: archive.read(known) for known in archive.namelist()}
    contents = {**contents, name: content} if content is not None else {k: v for k, v in contents.items() if k != name}
    with zipfile.ZipFile(file, "w") as archive:
        for known, value in contents.items():
            archive.writestr(known, value)


def test_what_is_packed_here_is_the_same_there(filled: Store, tmp_path: Path) -> None:
    assert pack(filled.entries(), tmp_path / "runs.zip") == 3  # not the one that failed
    there = Store(tmp_path / "there")
    Here(lambda task: Digits().load(None), there).run(JOBS[:1], lambda job, run: [], lambda progress: None)
    before = there.result(JOBS[0].specification)
    there.fail(JOBS[1].specification, "once")
    found = unpack(there, tmp_path / "runs.zip", pytest.fail)
    assert (set(found.added), found.there, found.left) == (set(KEYS[1:]), (KEYS[0],), ())
    assert there.result(JOBS[0].specification) == before
    for job in JOBS[1:]:
        assert there.result(job.specification) == filled.result(job.specification)
        assert (
            json.loads((there.directory(job.specification.key) / "environment.json").read_text())["command"] == "there"
        )
    assert [entry.status for entry in there.entries()] == ["done"] * 3
    assert unpack(there, tmp_path / "runs.zip", pytest.fail).added == ()


def test_what_is_damaged_or_newer_is_named_and_left_out(filled: Store, tmp_path: Path) -> None:
    file = tmp_path / "runs.zip"
    pack(filled.entries(), file)
    result = filled.directory(KEYS[0]) / "result.json"
    later = json.loads((filled.directory(KEYS[1]) / "result.json").read_text())
    later["specification"]["protocol"] = 99
    del later["digest"]
    later["digest"] = _digest(later)
    unknown = json.loads((filled.directory(KEYS[2]) / "result.json").read_text())
    unknown["specification"]["colour"] = "blue"
    del unknown["digest"]
    unknown["digest"] = _digest(unknown)
    changed(file, f"{KEYS[0]}/result.json", result.read_bytes().replace(b"0.01", b"0.02"))
    changed(file, f"{KEYS[1]}/result.json", json.dumps(later).encode())
    changed(file, f"{KEYS[2]}/result.json", json.dumps(unknown).encode())
    changed(file, "elsewhere/result.json", result.read_bytes())
    changed(file, "../evil/result.json", result.read_bytes())
    told: list[str] = []
    found = unpack(Store(tmp_path / "there"), file, told.append)
    assert (found.added, len(found.left)) == ((), 4)
    assert [line.partition(" is left out: ")[2] for line in told] == [
        "has been changed since it was written",
        "is of another run, " + told[1].rpartition(" ")[2],
        "was written by another version of varigrad (Specification.__init__() got an unexpected keyword argument "
        "'colour'); upgrade varigrad",
        f"is of another run, {KEYS[0]}",
    ]
    assert Store(tmp_path / "there").entries() == []
    assert not (tmp_path / "evil").exists()


def test_a_run_of_a_later_protocol_is_left_out(filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(filled.entries(), tmp_path / "runs.zip")
    monkeypatch.setattr("varigrad.lab.store.pack.PROTOCOL", 0)
    told: list[str] = []
    assert len(unpack(Store(tmp_path / "there"), tmp_path / "runs.zip", told.append).left) == 3
    assert "was made by a later varigrad (protocol 1; this one knows 0); upgrade varigrad" in told[0]


def test_a_run_that_is_being_made_is_left_alone(filled: Store, tmp_path: Path) -> None:
    pack(filled.entries(), tmp_path / "runs.zip")
    there = Store(tmp_path / "there")
    told: list[str] = []
    with there.take(JOBS[0].specification, {}):
        assert unpack(there, tmp_path / "runs.zip", told.append).left == (KEYS[0],)
    assert "is being run by process" in told[0]


def test_the_bits_of_a_file_that_rot_are_noticed(filled: Store, tmp_path: Path) -> None:
    file = tmp_path / "runs.zip"
    pack(filled.entries(), file)
    with zipfile.ZipFile(file) as archive:
        place = archive.getinfo(f"{KEYS[0]}/result.json").header_offset + 90
    content = bytearray(file.read_bytes())
    content[place] ^= 0xFF
    file.write_bytes(content)
    told: list[str] = []
    found = unpack(Store(tmp_path / "there"), file, told.append)
    assert (len(found.added), found.left) == (2, (KEYS[0],))
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(LabError, match=r"runs.zip: cannot be read \(.*\); give a file that --pack wrote"):
        unpack(Store(tmp_path / "there"), file, told.append)


def test_another_file_is_refused(filled: Store, tmp_path: Path) -> None:
    file = tmp_path / "runs.zip"
    pack(filled.entries(), file)
    changed(file, "pack.json", b'{"format": "varigrad-pack", "version": 99}')
    with pytest.raises(LabError, match=r"runs.zip: written by a later varigrad \(version 99; this one knows 1\)"):
        unpack(Store(tmp_path / "there"), file, pytest.fail)
    changed(file, "pack.json", None)
    with pytest.raises(LabError, match=r"runs.zip: holds other things than runs"):
        unpack(Store(tmp_path / "there"), file, pytest.fail)


def test_the_command_packs_what_it_lists(filled: Store, tmp_path: Path) -> None:
    file, there = tmp_path / "two.zip", tmp_path / "there"
    done = runs(*KEYS[:2], "--store", filled.folder, "--pack", file)
    assert f"Packed 2 that are done into {file}" in done.stdout
    assert runs("--store", there, "--unpack", file).stdout == f"2 unpacked, 0 there already, 0 left out: {there}\n"
    assert runs("--store", there, "--unpack", file).stdout == f"0 unpacked, 2 there already, 0 left out: {there}\n"
    for arguments, told in {
        ("--unpack", tmp_path / "none.zip"): "none.zip: no such file; give a file that --pack wrote",
        ("--unpack", file, "--task", "digits"): "takes all runs of the file, it does not go with --task",
        ("--pack", file, "--remove"): "--pack and --remove do not go together",
        ("--pack", tmp_path / "no" / "runs.zip"): "the directory",
    }.items():
        refused = runs("--store", filled.folder, *arguments)
        assert refused.exit_code == 2
        assert told in refused.stderr
