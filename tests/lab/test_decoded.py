"""What was decoded once is not decoded again, and never anything else in its place."""

from pathlib import Path

import numpy as np
import pytest

from varigrad.lab import decoded as kept
from varigrad.lab.decoded import decoded

FILES = [bytes([number]) * 5 for number in range(4)]
PIXELS = np.arange(4 * 2 * 3 * 3, dtype=np.uint8).reshape(4, 2, 3, 3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept, "FEWEST", 1)
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def load(files: list[bytes] = FILES, pixels: np.ndarray = PIXELS) -> tuple[np.ndarray, int]:
    """The pixels, and how often they were decoded."""
    calls = []

    def decode() -> np.ndarray:
        calls.append(1)
        return pixels

    return decoded(files, pixels.shape, decode), len(calls)


def test_what_was_decoded_once_is_read(folder: Path) -> None:
    assert load()[1] == 1
    found, times = load()
    assert times == 0
    assert np.array_equal(found, PIXELS)
    found[0] = 7  # a copy: what is kept stays what it is
    assert np.array_equal(load()[0], PIXELS)
    assert sorted(path.suffix for path in (folder / "decoded").iterdir()) == [".crc32", ".npy"]


def test_other_files_and_other_shapes_are_others(folder: Path) -> None:
    load()
    assert load([*FILES[:3], b"other"])[1] == 1
    assert load([FILES[0] + FILES[1], b"", *FILES[2:]])[1] == 1  # the same bytes, cut elsewhere
    assert load(pixels=PIXELS.reshape(4, 3, 2, 3))[1] == 1
    assert load()[1] == 0


@pytest.mark.parametrize("damage", ["rotten", "cut", "empty", "no checksum", "other checksum"])
def test_what_is_damaged_is_decoded_again(folder: Path, damage: str) -> None:
    load()
    (path,) = (folder / "decoded").glob("*.npy")
    content = path.read_bytes()
    if damage == "rotten":
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    elif damage in ("cut", "empty"):
        path.write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
    elif damage == "no checksum":
        path.with_suffix(".crc32").unlink()
    else:
        path.with_suffix(".crc32").write_text("what\n")
    found, times = load()
    assert times == 1
    assert np.array_equal(found, PIXELS)
    assert load()[1] == 0


def test_where_nothing_can_be_kept_everything_is_decoded(folder: Path) -> None:
    folder.write_text("a file in the way")
    assert [load()[1] for _ in range(2)] == [1, 1]


def test_few_images_are_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "FEWEST", 5)
    assert [load()[1] for _ in range(2)] == [1, 1]
    assert not folder.exists()


def test_it_lies_where_caches_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for name in ("VARIGRAD_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert kept.cache_folder() == Path("/home/somebody/.cache/varigrad")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert kept.cache_folder() == Path("/caches/varigrad")
    monkeypatch.setenv("VARIGRAD_CACHE", "/own")
    assert kept.cache_folder() == Path("/own")
