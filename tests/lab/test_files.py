import os
from pathlib import Path

import pytest

from varigrad.lab.errors import LabError
from varigrad.lab.files import require_writable_directory, require_writable_file, write_bytes, write_text

from .made_data import names


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_text(path, "ä\n")
    assert path.read_bytes() == "ä\n".encode()
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["result.json"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")

    def fail(descriptor: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(LabError if isinstance(failure, OSError) else KeyboardInterrupt) as caught:
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["result.json"]
    if isinstance(failure, OSError):
        assert "No space left on device" in str(caught.value)
        assert str(path) in str(caught.value)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_what_can_be_written_passes_and_nothing_is_left_behind(tmp_path: Path) -> None:
    require_writable_file(tmp_path / "new.json", "--json")
    require_writable_directory(tmp_path / "not" / "yet", "--out")
    assert names(tmp_path) == []


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(LabError, match=r"--json .*missing.* does not exist"):
        require_writable_file(tmp_path / "missing" / "a.json", "--json")
    with pytest.raises(LabError, match=r"--json .*not a regular file"):
        require_writable_file(tmp_path, "--json")
    with pytest.raises(LabError, match="--json /dev/null: not a regular file"):
        require_writable_file(Path("/dev/null"), "--json")
    for path in (file, file / "below"):
        with pytest.raises(LabError, match=r"--out .*file is not a directory"):
            require_writable_directory(path, "--out")
    with pytest.raises(LabError, match=r"--out /proc/new: cannot write in /proc"):
        require_writable_directory(Path("/proc/new"), "--out")
