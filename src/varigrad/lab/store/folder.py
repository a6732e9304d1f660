"""The store: a folder with a directory for every run."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from varigrad.lab.errors import LabError
from varigrad.lab.files import sync_directory, write_text
from varigrad.lab.store.kept import KeptCheckpoints
from varigrad.lab.store.lease import Heartbeat, Holder
from varigrad.lab.store.record import DamagedError, from_json, to_json
from varigrad.lab.store.specification import Specification
from varigrad.lab.training import Run

VERSION = 1  # of the layout below; a store of a later version is refused
CHECKPOINT_SECONDS = 20.0
_MARK, _RUNS, _DAMAGED = "store.json", "runs", "damaged"
_SPECIFICATION, ENVIRONMENT, _LEASE = "specification.json", "environment.json", "lease.json"
RESULT, _ERROR = "result.json", "error.txt"


class LeasedError(Exception):
    """Another process works on the run."""


class LeaseLostError(Exception):
    """The run was taken for abandoned and has become another's."""


@dataclass(frozen=True)
class Lease:
    """A run that this process works on, until the context of `Store.take` ends.

    Attributes:
        specification: The run.
        holder: This process.
        checkpoints: What `train` saves into.
    """

    specification: Specification
    holder: Holder
    checkpoints: KeptCheckpoints


class Store:
    """A folder of runs, shared by any number of processes on any number of machines.

    The layout is `store.json` (format and version), `runs/KEY/` and `damaged/`. In a run's directory are
    `specification.json`; `lease.json` while a process works on it, and `checkpoint` with `checkpoint.previous` once
    there is one; `environment.json`, where it was run last; `result.json` when it is done; `error.txt` if it failed.
    Every file is whole or not there. What is found damaged is moved to `damaged/`, and the run counts as never made.

    Args:
        folder: The folder; made where there is none.
        checkpoint_seconds: How much time passes between two checkpoints of a run.
        tell: Told in one line of what was found damaged.

    Raises:
        LabError: The folder holds something else, or a store of a later version.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [entry.status for entry in Store(Path(folder) / "runs").entries()]
        []
    """

    def __init__(
        self,
        folder: Path,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        tell: Callable[[str], None] = warnings.warn,
    ) -> None:
        self.folder = folder
        self.checkpoint_seconds = checkpoint_seconds
        self._tell = tell
        require_store(folder)
        try:
            (folder / _RUNS).mkdir(parents=True, exist_ok=True)
            (folder / _DAMAGED).mkdir(exist_ok=True)
        except OSError as error:
            raise LabError(f"cannot make the store {folder}: {error.strerror or error}") from error
        if not (folder / _MARK).exists():
            write_text(folder / _MARK, json.dumps({"format": "varigrad-store", "version": VERSION}) + "\n")
        # The system gives the lock back when its holder dies. It is held for moments: to take, to replace, to move.
        self._lock = FileLock(folder / ".lock")

    def directory(self, key: str) -> Path:
        """Where a run is kept."""
        return self.folder / _RUNS / key

    def result(self, specification: Specification) -> Run | None:
        """The finished run; None if it is not done. One that is damaged is set aside: it is not done."""
        path = self.directory(specification.key) / RESULT
        with contextlib.suppress(FileNotFoundError):
            try:
                return self._read_result(path, specification)
            except DamagedError:
                with self._lock:
                    # Meanwhile another process may have set it aside, and made it again.
                    try:
                        return self._read_result(path, specification)
                    except DamagedError as error:
                        self._set_aside(path.parent, f"{RESULT} {error}")
        return None

    @staticmethod
    def _read_result(path: Path, expected: Specification) -> Run:
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise DamagedError("is not a whole result") from error
        specification, run = from_json(text)
        if specification != expected:
            raise DamagedError(f"is of another run, {specification.key}")
        return run

    @contextlib.contextmanager
    def take(self, specification: Specification, environment: Mapping[str, str]) -> Iterator[Lease]:
        """Work on a run, alone. The lease ends with the context, however that ends.

        Args:
            specification: The run.
            environment: Where it is run, such as `varigrad.lab.machine.provenance` tells.

        Raises:
            LeasedError: Another process that is alive works on it.
        """
        directory = self.directory(specification.key)
        path, holder = directory / _LEASE, Holder.this_process()
        with self._lock:
            directory.mkdir(exist_ok=True)
            current = Holder.read(path)
            if current is not None and current.is_alive(path):
                raise LeasedError(f"{specification.title} is being run by process {current.pid} on {current.host}")
            holder.write(path)
            for left in directory.glob(".*.tmp"):  # by a process that was killed while it wrote
                left.unlink(missing_ok=True)
            write_text(directory / _SPECIFICATION, json.dumps(specification.values(), indent=1) + "\n")
            write_text(directory / ENVIRONMENT, json.dumps(dict(environment), indent=1) + "\n")
        guard = functools.partial(self._ours, path, holder)
        checkpoints = KeptCheckpoints(directory, self.checkpoint_seconds, guard, self._set_file_aside)
        try:
            with Heartbeat(path, holder):
                yield Lease(specification, holder, checkpoints)
        finally:
            with self._lock:
                if Holder.read(path) == holder:
                    path.unlink()

    @contextlib.contextmanager
    def _ours(self, lease: Path, holder: Holder) -> Iterator[None]:
        with self._lock:
            if Holder.read(lease) != holder:
                raise LeaseLostError(f"the run in {lease.parent} was taken for abandoned and has become another's")
            yield

    def finish(self, lease: Lease, run: Run) -> None:
        """Keep the result of a run: from now on it is done.

        Raises:
            LeaseLostError: The lease is no longer this process's; nothing is written.
        """
        directory = self.directory(lease.specification.key)
        with self._ours(directory / _LEASE, lease.holder):
            write_text(directory / RESULT, to_json(lease.specification, run))
            KeptCheckpoints.remove(directory)
            (directory / _ERROR).unlink(missing_ok=True)

    def fail(self, specification: Specification, told: str) -> Path:
        """Keep what went wrong. A run that failed is not done: it is tried again when it is asked for again.

        Args:
            specification: The run.
            told: The traceback, or what else is known.
        """
        directory = self.directory(specification.key)
        with self._lock:
            directory.mkdir(exist_ok=True)
            write_text(directory / _SPECIFICATION, json.dumps(specification.values(), indent=1) + "\n")
            write_text(directory / _ERROR, told)
        return directory / _ERROR

    def adopt(self, specification: Specification, result: str, environment: str) -> None:
        """Keep a run that was made elsewhere: from now on it is done here.

        Args:
            specification: The run.
            result: What its `result.json` holds there.
            environment: What its `environment.json` holds there.

        Raises:
            LeasedError: A process works on it here.
        """
        directory = self.directory(specification.key)
        with self._lock:
            holder = Holder.read(directory / _LEASE)
            if holder is not None and holder.is_alive(directory / _LEASE):
                raise LeasedError(f"{specification.title} is being run by process {holder.pid} on {holder.host}")
            directory.mkdir(exist_ok=True)
            write_text(directory / _SPECIFICATION, json.dumps(specification.values(), indent=1) + "\n")
            write_text(directory / ENVIRONMENT, environment)
            write_text(directory / RESULT, result)  # last: what is half adopted shall not count
            KeptCheckpoints.remove(directory)
            for left in (_LEASE, _ERROR):
                (directory / left).unlink(missing_ok=True)

    def entries(self) -> list[Entry]:
        """All runs, in the order of their tasks, optimizers, rates and seeds; those damaged are set aside first."""
        found = (self._entry(directory) for directory in sorted((self.folder / _RUNS).iterdir()))
        return sorted((entry for entry in found if entry is not None), key=Entry.order)

    def _entry(self, directory: Path) -> Entry | None:
        path = directory / _SPECIFICATION
        if not directory.is_dir() or not path.exists():
            return None  # taken at this moment, or left by a process that was killed as it took it
        try:
            specification = Specification.read(json.loads(path.read_text("utf-8")))
            problem = None if specification.key == directory.name else f"is of another run, {specification.key}"
        except (ValueError, TypeError):
            problem = "cannot be read"
        if problem is not None:
            with self._lock:
                self._set_aside(directory, f"{_SPECIFICATION} {problem}")
            return None
        run = self.result(specification)
        holder = None if run else Holder.read(directory / _LEASE)
        if run is None and not directory.exists():
            return None  # set aside just now
        if run is not None:
            status = "done"
            self._tidy(directory)
        elif holder is not None and holder.is_alive(directory / _LEASE):
            status = "running"
        else:
            status = "failed" if (directory / _ERROR).exists() else "interrupted"
        return Entry(specification, status, run, directory)

    def _tidy(self, directory: Path) -> None:
        """Delete what a process has left in a run that is done, because it was killed just then."""
        left = [path for path in (directory / _LEASE, *KeptCheckpoints.files(directory)) if path.exists()]
        if not left:
            return
        with self._lock:
            holder = Holder.read(directory / _LEASE)
            if holder is None or not holder.is_alive(directory / _LEASE):
                for path in left:
                    path.unlink(missing_ok=True)

    def remove(self, entry: Entry) -> None:
        """Delete a run.

        Raises:
            LabError: A process works on it.
        """
        lease = entry.directory / _LEASE
        with self._lock:
            holder = Holder.read(lease)
            if holder is not None and holder.is_alive(lease):
                raise LabError(f"run {entry.specification.key} is being run by process {holder.pid} on {holder.host}")
            (entry.directory / RESULT).unlink(missing_ok=True)  # first: what is half deleted shall not count
            shutil.rmtree(entry.directory)

    def damaged(self) -> list[Path]:
        """What has been set aside."""
        return sorted((self.folder / _DAMAGED).iterdir())

    def _set_file_aside(self, path: Path) -> None:
        with self._lock:
            if path.exists():
                self._set_aside(path, "has been changed since it was written")

    def _set_aside(self, path: Path, problem: str) -> None:
        name = path.name if path.is_dir() else f"{path.parent.name}.{path.name}"
        number = 1
        while (target := self.folder / _DAMAGED / f"{name}.{number}").exists():
            number += 1
        path.replace(target)
        sync_directory(target.parent)
        what = "a damaged run" if target.is_dir() else "a damaged checkpoint"
        again = "it will be run again" if target.is_dir() else "the one before is gone on from, or the run begun again"
        self._tell(f"{what} is set aside as {target}: {problem}; {again}")


@dataclass(frozen=True)
class Entry:
    """A run in a store.

    Attributes:
        specification: The run.
        status: `"done"`, `"running"`, `"failed"` or `"interrupted"`.
        run: What it gave, if it is done.
        directory: Where it is kept.
    """

    specification: Specification
    status: str
    run: Run | None
    directory: Path

    def order(self) -> tuple[object, ...]:
        """What entries are sorted by."""
        spec = self.specification
        settings = json.dumps(spec.settings, sort_keys=True)
        return spec.task, spec.optimizer, settings, spec.lr, spec.seed, spec.key


def require_store(folder: Path) -> None:
    """Find out whether a folder is a store, or can become one; nothing is written.

    Raises:
        LabError: It holds something else, or a store of a later version.
    """
    mark = folder / _MARK
    if folder.exists() and not folder.is_dir():
        raise LabError(f"--store {folder}: not a folder; give a folder for the runs")
    if not mark.exists():
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
        if any(not name.startswith(".") for name in names - {_RUNS, _DAMAGED}):
            raise LabError(f"--store {folder}: holds other things (no {_MARK}); give an empty folder, or a new one")
        return
    try:
        content = json.loads(mark.read_text("utf-8"))
        version = content["version"] if content["format"] == "varigrad-store" else None
    except (OSError, ValueError, KeyError, TypeError):
        version = None
    if not isinstance(version, int):
        raise LabError(f"--store {folder}: {mark} is not that of a store; give another folder, or mend that file")
    if version > VERSION:
        raise LabError(
            f"--store {folder}: written by a later varigrad (store version {version}; this one knows {VERSION}); "
            "upgrade varigrad, or give another folder"
        )
