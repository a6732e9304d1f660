"""Files that are either whole or not there, and the question whether one could be written."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from varigrad.lab.errors import LabError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: whoever reads `path` finds the old content or all of the new, never a part.

    Args:
        path: The file; its directory must exist.
        content: What it shall hold.

    Raises:
        LabError: The file cannot be written; whatever was there before is untouched.
    """
    path = path.resolve()  # a link stays a link: the file it points to is the one replaced
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")  # a process killed here may leave one
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise LabError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make the names in a directory last through a failure of power, where the system has a way to."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, content: str) -> None:
    """Write a UTF-8 text file atomically; see `write_bytes`."""
    write_bytes(path, content.encode("utf-8"))


def require_writable_file(path: Path, option: str) -> None:
    """Find out, before the work starts, whether `write_bytes(path, ...)` would succeed; leave nothing behind.

    Args:
        path: The file to be written later.
        option: The command-line option the path came from, for the message.

    Raises:
        LabError: The path is a directory or a device, or its directory is missing or not writable.
    """
    if path.exists() and not path.is_file():
        raise LabError(f"{option} {path}: not a regular file; give the name of a file to write")
    if not path.parent.is_dir():
        raise LabError(f"{option} {path}: the directory {path.parent} does not exist")
    _require_room(path.resolve().parent, f"{option} {path}")


def require_writable_directory(path: Path, option: str) -> None:
    """Find out, before the work starts, whether files can be put into `path`, made now or later.

    Args:
        path: The directory; it and its parents need not exist yet, and are not made here.
        option: The command-line option the path came from, for the message.

    Raises:
        LabError: Something that is no directory is in the way, or the place is not writable.
    """
    existing = path.absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise LabError(f"{option} {path}: {existing} is not a directory; give a directory to write into")
    _require_room(existing, f"{option} {path}")


def _require_room(directory: Path, what: str) -> None:
    try:
        # Trying beats asking: permission bits know nothing of read-only mounts and full disks.
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise LabError(f"{what}: cannot write in {directory}: {error.strerror or error}") from error
