"""What users bring of their own: Python files, and installed packages that declare something."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from varigrad.lab.errors import LabError

_MODULES = "varigrad_own_"
_executed: dict[Path, tuple[bytes, ModuleType]] = {}  # the source that was executed, and what came of it


def split(name: str, option: str) -> tuple[Path, str]:
    """The file and the name behind its colon, which may be empty, of `FILE.py` or `FILE.py:NAME`.

    Args:
        name: What was given.
        option: The option it was given to, for messages.

    Raises:
        LabError: It is neither.

    Example:
        >>> path, wanted = split("mine.py:line", "--task")
        >>> path.name, wanted
        ('mine.py', 'line')
    """
    file, _, wanted = name.partition(".py")
    if wanted and not wanted.startswith(":"):
        raise LabError(f"{option} {name}: expected FILE.py or FILE.py:NAME")
    return Path(file + ".py"), wanted[1:]


def module(path: Path, kind: str) -> ModuleType:
    """The module of a file, executed once as long as the file stays what it is.

    Args:
        path: The file.
        kind: What is looked for in it, for messages, such as `"a task"`.

    Raises:
        LabError: There is no such file, or it fails.
    """
    if not path.is_file():
        raise LabError(f"no file {path}; {kind} of your own is given as FILE.py or FILE.py:NAME")
    path = path.resolve()
    source = path.read_bytes()
    if path in _executed and _executed[path][0] == source:
        return _executed[path][1]
    # A name of its own, under which workers that get the file's functions by name can import it, too.
    name = f"{_MODULES}{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LabError(f"{path} is not a Python file")
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    try:
        spec.loader.exec_module(made)
    except Exception as error:
        del sys.modules[name]
        raise LabError(f"{path} fails: {type(error).__name__}: {error}") from error
    _executed[path] = source, made
    return made


def is_own_module(name: str) -> bool:
    """Whether a module of this name is that of a user's file."""
    return name.startswith(_MODULES)


def declared(group: str) -> Iterator[tuple[str, object]]:
    """What installed packages declare in a group of entry points: one thing at a time, also of lists.

    Yields:
        Where it comes from, for messages, and the thing.

    Raises:
        LabError: An entry point fails.
    """
    for entry in entry_points(group=group):
        origin = f"the entry point {entry.name} = {entry.value} of {group}"
        try:
            loaded = entry.load()
        except Exception as error:
            raise LabError(f"{origin} fails: {type(error).__name__}: {error}; mend or remove its package") from error
        for thing in loaded if isinstance(loaded, (list, tuple)) else [loaded]:
            yield origin, thing


def whereabouts(names: Iterable[str]) -> Mapping[str, str]:
    """For names of things in files the same with the whole path, under which another process finds them.

    Example:
        >>> whereabouts(["digits"])
        {}
    """
    found = {}
    for name in names:
        file, extension, wanted = name.partition(".py")
        if extension:
            found[name] = f"{Path(file + extension).resolve()}{wanted}"
    return found
