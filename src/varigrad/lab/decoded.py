"""Images that were decoded once, kept on disk: no other process, and no later command, decodes them again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from varigrad.lab.files import sync_directory

FEWEST = 10_000  # images; fewer are decoded in no time
_VERSION = 1  # of what decoding gives


def cache_folder() -> Path:
    """Where they are kept: what VARIGRAD_CACHE says, else `varigrad` in the user's folder for caches."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "varigrad"
    return Path(os.environ.get("VARIGRAD_CACHE") or default)


def decoded(files: Sequence[bytes], shape: tuple[int, ...], decode: Callable[[], np.ndarray]) -> np.ndarray:
    """The pixels of image files: as they were kept, or decoded now and kept.

    They are found by what the files hold, not by where they lie, so that what is kept is never out of date. What does
    not hold what was written to it is decoded again. Where nothing can be kept, everything is decoded every time.

    Args:
        files: The image files.
        shape: That of the pixels, uint8.
        decode: Decodes them.

    Returns:
        The pixels; mapped from the file, so that processes share the memory, and written to in memory only.
    """
    if len(files) < FEWEST:
        return decode()
    digest = hashlib.sha256(repr((_VERSION, shape)).encode())
    for file in files:
        digest.update(len(file).to_bytes(8, "little"))
        digest.update(file)
    path = cache_folder() / "decoded" / f"{digest.hexdigest()[:32]}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        kept: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
        checksum = int(path.with_suffix(".crc32").read_text())
        if kept.shape == shape and kept.dtype == np.uint8 and zlib.crc32(kept.data) == checksum:
            return kept
    pixels = decode()
    with contextlib.suppress(OSError):
        _keep(path, pixels)
    return pixels


def _keep(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for place, write in (
        (path.with_suffix(".crc32"), lambda file: file.write(f"{zlib.crc32(pixels.data)}\n".encode())),
        (path, lambda file: np.save(file, pixels)),
    ):
        temporary = place.with_name(f".{place.name}.{secrets.token_hex(8)}.tmp")
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
    sync_directory(path.parent)
