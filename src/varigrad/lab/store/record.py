"""A finished run as a JSON file that tells when it is not whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import Any

from varigrad.lab.store.specification import Specification
from varigrad.lab.training import Evaluation, Run

# What differs between two executions of the same run; everything else is the same to the bit.
TIMES = ("optimizer_ms", "steps_per_second", "seconds")


class DamagedError(Exception):
    """A file of the store does not hold what was written to it; the message says what is wrong."""


def to_json(specification: Specification, run: Run) -> str:
    """The run with its specification, its times apart from what was computed, and a digest of all of it."""
    values = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    content = {
        "specification": specification.values(),
        "run": _plain({name: value for name, value in values.items() if name not in TIMES}),
        "times": _plain({name: value for name, value in values.items() if name in TIMES}),
    }
    return json.dumps({**content, "digest": _digest(content)}, indent=1, allow_nan=False) + "\n"


def from_json(text: str) -> tuple[Specification, Run]:
    """What `to_json` was given, to the bit.

    Raises:
        DamagedError: The text is not what `to_json` wrote.
    """
    try:
        content = json.loads(text)
        digest = content.pop("digest")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError("is not a whole result") from error
    if digest != _digest(content):
        raise DamagedError("has been changed since it was written")
    try:
        values = _numbers({**content["run"], **content["times"]})
        values["evaluations"] = tuple(Evaluation(**evaluation) for evaluation in values["evaluations"])
        values["seconds"] = tuple(values["seconds"])
        return Specification.read(content["specification"]), Run(**values)
    except (KeyError, TypeError) as error:  # whole, but with other fields
        raise DamagedError(f"was written by another version of varigrad ({error}); upgrade varigrad") from error


def _digest(content: Any) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """JSON has no infinity: such a number becomes its name."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float(value) if value in ("inf", "-inf", "nan") else value
