"""What a user of the lab can mend, told in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LabError(ValueError):
    """A mistake the user can mend: one line that names the thing, its value and what is accepted."""

    def __init__(self, message: str) -> None:
        # Messages quote other libraries, whose own may run over several lines.
        super().__init__(" ".join(message.split()))


def unknown_name(kind: str, name: str, known: Iterable[str]) -> LabError:
    """The error for a name that does not exist: what does, and what was probably meant.

    Args:
        kind: What the name should have named, such as `"task"`.
        name: The name as the user wrote it.
        known: The names that exist.

    Example:
        >>> print(unknown_name("task", "digit", ["digits", "mnist-mlp"]))
        unknown task 'digit': did you mean 'digits'? (known: digits, mnist-mlp)
    """
    names = list(known)
    close = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f": did you mean {close[0]!r}?" if close else ""
    return LabError(f"unknown {kind} {name!r}{hint} (known: {', '.join(names)})")
