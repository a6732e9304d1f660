"""VSGD with a shorter memory of its variances, which looked better in `vsgd_defaults.py`, for `fair.py` to judge.

It is given to the lab as a file:

    varigrad tune --task benchmarks/short_tasks.py:gpt-short --optimizers vsgd,benchmarks/vsgd_memory.py
"""

from __future__ import annotations

import varigrad
from varigrad.lab.optimizers import NORMALISED, OptimizerRow

ROWS = [
    OptimizerRow(
        "vsgd-short-memory",
        varigrad.VSGD,
        "VSGD whose variances are averaged over the last t^0.6 steps",
        "Chen et al. 2024, Algorithm 1",
        NORMALISED,
        {"kappas": (0.6, 0.6)},
    )
]
