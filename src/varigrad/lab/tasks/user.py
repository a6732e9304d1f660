"""Tasks of the user's own: in a Python file, or in an installed package that declares them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from varigrad.lab import own
from varigrad.lab.errors import LabError, unknown_name
from varigrad.lab.tasks.task import Task

ENTRY_POINTS = "varigrad.tasks"


def task_from_file(name: str) -> Task:
    """The task in a Python file, at its top level or in a list there: `FILE.py` if it is alone, else `FILE.py:NAME`.

    Raises:
        LabError: There is no such file, it fails, or it has no such task.
    """
    path, wanted = own.split(name, "--task")
    values = vars(own.module(path, "a task")).values()
    several = (entry for value in values for entry in (value if isinstance(value, (list, tuple)) else (value,)))
    tasks = {task.name: task for task in several if isinstance(task, Task)}
    if not tasks:
        raise LabError(f"{path} has no task; give one a name at its top level: task = varigrad.lab.tasks.Task(...)")
    if not wanted:
        if len(tasks) > 1:
            raise LabError(f"{path} has several tasks: say which ({', '.join(f'{path}:{task}' for task in tasks)})")
        wanted = next(iter(tasks))
    if wanted not in tasks:
        raise unknown_name(f"task of {path}", wanted, tasks)
    # Under this name other processes find it, and it is no other file's task of the same name.
    return dataclasses.replace(tasks[wanted], name=f"{path}:{wanted}")


def installed_tasks(taken: Iterable[str]) -> Mapping[str, Task]:
    """The tasks of installed packages: entry points of the group `varigrad.tasks`, each a task or several.

    Args:
        taken: Names they must not have.

    Raises:
        LabError: An entry point fails or is no task, or a name is there twice.
    """
    tasks: dict[str, Task] = {}
    for origin, task in own.declared(ENTRY_POINTS):
        if not isinstance(task, Task):
            raise LabError(f"{origin} is {type(task).__name__}, expected a Task or a list of them")
        if task.name in tasks or task.name in set(taken):
            raise LabError(f"{origin}: there is a task called {task.name} already; give it another name")
        tasks[task.name] = task
    return tasks
