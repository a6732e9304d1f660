"""Who works on a run: one process at a time, and nobody waits for one that is dead."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import secrets
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil

from varigrad.lab.files import write_text

HEARTBEAT_SECONDS = 10.0
SILENCE_SECONDS = 90.0  # a holder on another machine that has been silent for so long is taken for dead


@dataclass(frozen=True)
class Holder:
    """A process that holds a lease.

    Attributes:
        host: Its machine.
        processes: Where its number means something: the machine since its last start, and the container on it.
        pid: Its number there.
        started: When it started there, in seconds: numbers are used again.
        token: Drawn for each lease.
    """

    host: str
    processes: str
    pid: int
    started: float
    token: str

    @classmethod
    def this_process(cls) -> Holder:
        """This process, with a new token."""
        started = psutil.Process().create_time()
        return cls(socket.gethostname(), _processes(), os.getpid(), started, secrets.token_hex(8))

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """Who holds the lease in this file; None if nobody does, or it cannot be told."""
        try:
            return cls(**json.loads(path.read_text("utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Make the file say that this process holds the lease."""
        write_text(path, json.dumps(dataclasses.asdict(self)) + "\n")

    def is_alive(self, path: Path) -> bool:
        """Whether the process is still there: the system knows on its own machine; elsewhere its heartbeat tells."""
        if (self.host, self.processes) == (socket.gethostname(), _processes()):
            try:
                return bool(abs(psutil.Process(self.pid).create_time() - self.started) < 1)
            except psutil.Error:
                return False
        return _file_age(path) < SILENCE_SECONDS


@functools.cache
def _processes() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not on Linux
        return ""


def _file_age(path: Path) -> float:
    """Seconds since a file was touched by the clock of the file system, which all machines that share it have."""
    probe = path.with_name(f".clock.{secrets.token_hex(4)}.tmp")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    finally:
        probe.unlink(missing_ok=True)


class Heartbeat:
    """Touches a lease's file every few seconds, for as long as it is ours. A context manager."""

    def __init__(self, path: Path, holder: Holder, seconds: float = HEARTBEAT_SECONDS) -> None:
        self._path = path
        self._holder = holder
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(self._seconds):
            with contextlib.suppress(OSError):  # a moment without the network; the next beat tries again
                if Holder.read(self._path) != self._holder:
                    return
                os.utime(self._path)
