"""Runs in one file, to carry them from one machine's store to another's."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from varigrad.lab.errors import LabError
from varigrad.lab.files import write_bytes
from varigrad.lab.store.folder import ENVIRONMENT, RESULT, VERSION, Entry, LeasedError, Store
from varigrad.lab.store.record import DamagedError, from_json
from varigrad.lab.store.specification import PROTOCOL, Specification

_MARK, _FORMAT = "pack.json", "varigrad-pack"


@dataclass(frozen=True)
class Unpacked:
    """What became of the runs in a file, each by its key.

    Attributes:
        added: Those that the store has now.
        there: Those it had before.
        left: Those that were left out.
    """

    added: tuple[str, ...]
    there: tuple[str, ...]
    left: tuple[str, ...]


def pack(entries: Sequence[Entry], file: Path) -> int:
    """Write all finished runs into one file, which is whole or not there.

    Args:
        entries: Runs of a store; those that are not done are not written.
        file: A zip file; replaced where there is one.

    Returns:
        How many were written.

    Raises:
        LabError: The file cannot be written.
    """
    done = [entry for entry in entries if entry.status == "done"]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_MARK, json.dumps({"format": _FORMAT, "version": VERSION}) + "\n")
        for entry in done:
            for name in (RESULT, ENVIRONMENT):
                if (entry.directory / name).exists():
                    archive.write(entry.directory / name, f"{entry.specification.key}/{name}")
    write_bytes(file, content.getvalue())
    return len(done)


def unpack(store: Store, file: Path, tell: Callable[[str], None]) -> Unpacked:
    """Put the runs of a file into a store; what the store has already stays what it is.

    A run that does not hold what was written to it, is of a later varigrad, or is being made here at this moment, is
    left out.

    Args:
        store: The store.
        file: What `pack` wrote.
        tell: Told in one line of every run that is left out, and why.

    Raises:
        LabError: The file cannot be read, holds something else, or was written by a later varigrad.
    """
    found: dict[str, list[str]] = {"added": [], "there": [], "left": []}
    try:
        with zipfile.ZipFile(file) as archive:
            _require_pack(archive, file)
            for name in archive.namelist():
                key, _, kind = name.partition("/")
                if kind != RESULT:
                    continue
                try:
                    added = _add(store, archive, key)
                except (DamagedError, LeasedError) as error:
                    tell(f"run {key} of {file} is left out: {error}")
                    found["left"].append(key)
                else:
                    found["added" if added else "there"].append(key)
    except (OSError, zipfile.BadZipFile) as error:
        raise LabError(f"--unpack {file}: cannot be read ({error}); give a file that --pack wrote") from error
    return Unpacked(**{name: tuple(keys) for name, keys in found.items()})


def _require_pack(archive: zipfile.ZipFile, file: Path) -> None:
    try:
        mark = json.loads(archive.read(_MARK))
        version = mark["version"] if mark["format"] == _FORMAT else None
    except (KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error):
        version = None
    if not isinstance(version, int):
        raise LabError(f"--unpack {file}: holds other things than runs; give a file that --pack wrote")
    if version > VERSION:
        raise LabError(
            f"--unpack {file}: written by a later varigrad (version {version}; this one knows {VERSION}); "
            "upgrade varigrad"
        )


def _add(store: Store, archive: zipfile.ZipFile, key: str) -> bool:
    """Whether the run is new to the store.

    Raises:
        DamagedError: It is not whole, or of a later version.
        LeasedError: A process works on it.
    """
    result = _read(archive, f"{key}/{RESULT}")
    specification, _ = from_json(result)
    if specification.key != key:
        raise DamagedError(f"is of another run, {specification.key}")
    if specification.protocol > PROTOCOL:
        raise DamagedError(
            f"was made by a later varigrad (protocol {specification.protocol}; this one knows {PROTOCOL}); "
            "upgrade varigrad"
        )
    if store.result(specification) is not None:
        return False
    environment = f"{key}/{ENVIRONMENT}"
    known = _read(archive, environment) if environment in archive.namelist() else "{}\n"
    store.adopt(Specification.read(specification.values()), result, known)
    return True


def _read(archive: zipfile.ZipFile, name: str) -> str:
    try:
        return archive.read(name).decode("utf-8")
    except (zipfile.BadZipFile, zlib.error, UnicodeDecodeError, EOFError) as error:
        raise DamagedError("has been changed since it was written") from error
