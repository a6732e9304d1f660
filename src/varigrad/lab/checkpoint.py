"""How a run is kept while it is under way: what the training loop asks of whoever keeps it."""

from __future__ import annotations

from typing import Any, Protocol


class Checkpoints(Protocol):
    """Where a training loop leaves its state between two steps, and finds it again."""

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None if there is none."""

    def due(self) -> bool:
        """Whether it is time to save again; asked after every step, so it must cost next to nothing."""

    def save(self, state: dict[str, Any]) -> None:
        """Keep a state: tensors, numbers, strings, and lists, tuples and dictionaries of them."""


class NoCheckpoints:
    """Keeps nothing."""

    def load(self) -> None:
        """There is never a state to go on from."""

    def due(self) -> bool:
        """Never."""
        return False

    def save(self, state: dict[str, Any]) -> None:
        """Never called, for it is never due."""
