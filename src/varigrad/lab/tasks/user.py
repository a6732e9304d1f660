"""Tasks of the user's own: in a Python file, or in an installed package that declares them."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from varigrad.lab.errors import LabError, unknown_name
from varigrad.lab.tasks.task import Task

ENTRY_POINTS = "varigrad.tasks"


def task_from_file(name: str) -> Task:
    """The task in a Python file: `FILE.py` if it has one only, else `FILE.py:NAME`.

    Raises:
        LabError: There is no such file, it fails, or it has no such task.
    """
    file, _, wanted = name.partition(".py")
    path = Path(file + ".py")
    if wanted and not wanted.startswith(":"):
        raise LabError(f"--task {name}: expected FILE.py or FILE.py:NAME")
    tasks = {task.name: task for task in vars(_module(path)).values() if isinstance(task, Task)}
    if not tasks:
        raise LabError(f"{path} has no task; give one a name at its top level: task = varigrad.lab.tasks.Task(...)")
    if wanted[1:]:
        if wanted[1:] not in tasks:
            raise unknown_name(f"task of {path}", wanted[1:], tasks)
        return _named(path, tasks[wanted[1:]])
    if len(tasks) > 1:
        raise LabError(f"{path} has several tasks: say which ({', '.join(f'{path}:{task}' for task in tasks)})")
    return _named(path, next(iter(tasks.values())))


def _named(path: Path, task: Task) -> Task:
    # Under this name other processes find it, and it is no other file's task of the same name.
    return dataclasses.replace(task, name=f"{path}:{task.name}")


def _module(path: Path) -> ModuleType:
    if not path.is_file():
        raise LabError(f"no file {path}; a task of your own is given as FILE.py or FILE.py:NAME")
    path = path.resolve()
    # A name of its own, under which workers that get the task's functions by name can import it, too.
    name = f"varigrad_task_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LabError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise LabError(f"{path} fails: {type(error).__name__}: {error}") from error
    return module


def installed_tasks(taken: Iterable[str]) -> Mapping[str, Task]:
    """The tasks of installed packages: entry points of the group `varigrad.tasks`, each a task or several.

    Args:
        taken: Names they must not have.

    Raises:
        LabError: An entry point fails or is no task, or a name is there twice.
    """
    tasks: dict[str, Task] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        origin = f"the entry point {entry.name} = {entry.value} of {ENTRY_POINTS}"
        try:
            loaded = entry.load()
        except Exception as error:
            raise LabError(f"{origin} fails: {type(error).__name__}: {error}; mend or remove its package") from error
        for task in [loaded] if isinstance(loaded, Task) else loaded if isinstance(loaded, (list, tuple)) else [loaded]:
            if not isinstance(task, Task):
                raise LabError(f"{origin} is {type(task).__name__}, expected a Task or a list of them")
            if task.name in tasks or task.name in set(taken):
                raise LabError(f"{origin}: there is a task called {task.name} already; give it another name")
            tasks[task.name] = task
    return tasks
