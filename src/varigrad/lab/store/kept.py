"""A run's checkpoints in its directory: the latest, and the one before."""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from varigrad.lab.files import write_bytes

LATEST, PREVIOUS = "checkpoint", "checkpoint.previous"
_DIGEST_BYTES = 32


class KeptCheckpoints:
    """What `train` saves into and goes on from.

    A file is the SHA-256 of what follows, and what `torch.save` wrote. The latest file becomes the previous one in
    one step, then the new one the latest in another: at any moment one of the two is whole.

    Args:
        directory: The run's.
        seconds: How much time passes between two checkpoints, at least.
        guard: Entered around every change in the directory; raises if the run has become another's.
        set_aside: Called with a damaged file, to move it away.
    """

    def __init__(
        self,
        directory: Path,
        seconds: float,
        guard: Callable[[], AbstractContextManager[object]],
        set_aside: Callable[[Path], None],
    ) -> None:
        self._directory = directory
        self._seconds = seconds
        self._guard = guard
        self._set_aside = set_aside
        self._next = time.monotonic() + seconds

    def load(self) -> dict[str, Any] | None:
        """The latest state that is whole; None if there is none."""
        for name in (LATEST, PREVIOUS):
            path = self._directory / name
            with contextlib.suppress(FileNotFoundError):
                content = path.read_bytes()
                digest, saved = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
                if hashlib.sha256(saved).digest() == digest:
                    state: dict[str, Any] = torch.load(io.BytesIO(saved), map_location="cpu", weights_only=True)
                    return state
                self._set_aside(path)
        return None

    def due(self) -> bool:
        """Whether enough time has passed."""
        return time.monotonic() >= self._next

    def save(self, state: dict[str, Any]) -> None:
        """Write the state; the one before stays."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        saved = buffer.getvalue()
        with self._guard():
            latest = self._directory / LATEST
            if latest.exists():
                latest.replace(self._directory / PREVIOUS)
            write_bytes(latest, hashlib.sha256(saved).digest() + saved)
        self._next = time.monotonic() + self._seconds

    @staticmethod
    def remove(directory: Path) -> None:
        """Delete the checkpoints of a run that is finished."""
        for path in KeptCheckpoints.files(directory):
            path.unlink(missing_ok=True)

    @staticmethod
    def files(directory: Path) -> tuple[Path, ...]:
        """Where the checkpoints of a run are kept."""
        return directory / LATEST, directory / PREVIOUS
