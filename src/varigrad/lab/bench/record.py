"""Timings as JSON.

The keys, top down:

- `format`, `version`: `"varigrad-bench"` and the number of this layout.
- `settings`: `dtype`, `state_dtype`, `rounding`, `device`, `rounds`, `clock`.
- `rows`, one for each optimizer, way and set of shapes: `optimizer`, `way`, `shapes`, `parameters`, `tensors`, `ms`
  (the median), `ratio_to_adamw_fused` (the median over the rounds), `ratio_quartiles` (its first and third quartile),
  `state_bytes_per_parameter`, `temporary_bytes_per_parameter`, `bytes_per_second`, `bandwidth_fraction`,
  `addition_ratio` and `floor_ratio` (which may be null), as `varigrad.lab.bench.timing.Timing` defines them.
- `skipped`: `optimizer`, `way`, `shapes` and the `reason` why there is no row.
- `provenance`: `command`, `date` and the versions and processors of the machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from varigrad.lab.bench.timing import Skipped, Timing


def to_json(
    timings: Sequence[Timing], skipped: Sequence[Skipped], settings: Mapping[str, Any], provenance: Mapping[str, str]
) -> str:
    """The timings as strictly valid JSON, with the keys told above.

    Args:
        timings: What was measured.
        skipped: What could not be.
        settings: How it was measured.
        provenance: Where it comes from, such as `varigrad.lab.machine.provenance` gives it.
    """
    record = {
        "format": "varigrad-bench",
        "version": 1,
        "settings": dict(settings),
        "rows": [_row(timing) for timing in timings],
        "skipped": [asdict(skip) for skip in skipped],
        "provenance": dict(provenance),
    }
    return json.dumps(record, indent=1, allow_nan=False) + "\n"


def _row(timing: Timing) -> dict[str, Any]:
    row = asdict(timing)
    quartiles = [row.pop("ratio_low"), row.pop("ratio_high")]
    ratio = row.pop("ratio")
    return {**row, "ratio_to_adamw_fused": ratio, "ratio_quartiles": quartiles}
