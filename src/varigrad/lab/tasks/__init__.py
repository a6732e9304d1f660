"""The tasks: those of the papers, smaller ones, and the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from varigrad.lab.errors import unknown_name
from varigrad.lab.tasks import images, problems, small, text
from varigrad.lab.tasks.task import Task
from varigrad.lab.tasks.user import installed_tasks, task_from_file

__all__ = ["TASKS", "Task", "all_tasks", "find_task"]

TASKS: Mapping[str, Task] = MappingProxyType(
    {task.name: task for task in (*small.TASKS, *images.TASKS, *text.TASKS, *problems.TASKS)}
)


def all_tasks() -> Mapping[str, Task]:
    """Ours and those of installed packages.

    Raises:
        LabError: A package's entry point is none, or its task has the name of another.
    """
    return {**TASKS, **installed_tasks(TASKS)}


def find_task(name: str) -> Task:
    """The task called `name`.

    Args:
        name: One of ours or of an installed package's; or `FILE.py` or `FILE.py:NAME` for a task in a Python file.

    Raises:
        LabError: There is none; the message lists those there are.

    Example:
        >>> find_task("mnist-mlp").batch_size
        32
    """
    if ".py" in name:
        return task_from_file(name)
    if name in TASKS:
        return TASKS[name]
    known = all_tasks()
    if name not in known:
        raise unknown_name("task", name, known)
    return known[name]
