"""A grid in worker processes; a program, for `test_kills`: python -m tests.lab.driven_grid STORE WORKERS"""

import sys
from pathlib import Path

from varigrad.lab.data import Digits
from varigrad.lab.engines.processes import Processes
from varigrad.lab.grid import compare
from varigrad.lab.optimizers import OPTIMIZERS
from varigrad.lab.store.folder import Store
from varigrad.lab.tasks import TASKS
from varigrad.lab.training import Settings

ROWS = [OPTIMIZERS[name] for name in ("vsgd", "svgd", "adamw", "sgd")]
STEPS, RATES, SEEDS = 150, [0.003, 0.01, 0.03], [0, 1, 2]


def main() -> None:
    store = Store(Path(sys.argv[1]), checkpoint_seconds=0.1)
    engine = Processes(store, ["cpu"] * int(sys.argv[2]), 1, None, {"command": "driven_grid"}, print)
    compare(TASKS["digits"], Digits().load(None), ROWS, SEEDS, Settings(STEPS), RATES, engine=engine)


if __name__ == "__main__":
    main()
