"""How the reference reads our docstrings: an `Example:` with a prompt is code, as `Examples:` would be."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Calls the section of examples what the parser of docstrings calls it."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Renames the section of one object."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
