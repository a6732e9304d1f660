"""A grid of small runs whose processes are killed at random moments; a program, for `test_kills`.

    python -m tests.lab.killed_grid FOLDER KILLS SEED

makes the grid twice: in FOLDER/undisturbed, and in FOLDER/killed by two processes that share the store, of which one
or both are killed with SIGKILL, KILLS times, and begun again. They are forked from this process, which has imported
everything and computed nothing: so they begin at once, and a kill may meet any moment of a run.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from varigrad.lab.data import Digits
from varigrad.lab.engines.here import Here
from varigrad.lab.grid import compare
from varigrad.lab.optimizers import OPTIMIZERS
from varigrad.lab.store.folder import Store
from varigrad.lab.tasks import TASKS
from varigrad.lab.training import Settings

ROWS = [OPTIMIZERS[name] for name in ("vsgd", "svgd")]
RATES = [0.003, 0.01]
SEEDS = [0, 1]


def grid(store: Path) -> None:
    engine = Here(lambda task: Digits().load(None), Store(store, checkpoint_seconds=0.02))
    compare(TASKS["digits"], Digits().load(None), ROWS, SEEDS, Settings(steps=120), RATES, engine=engine)


def forked(store: Path) -> int:
    """The process number of a child that makes the grid."""
    if child := os.fork():
        return child
    code = 1
    try:
        grid(store)
        code = 0
    finally:
        os._exit(code)


def disturbed(store: Path, kills: int, random_numbers: random.Random) -> None:
    seen: dict[Path, bytes] = {}

    def look() -> None:
        """What is done stays what it is, times included: it is never made again."""
        results = {path: path.read_bytes() for path in store.glob("runs/*/result.json")}
        assert all(results[path] == content for path, content in seen.items())
        seen.update(results)

    while kills:
        children = {forked(store), forked(store)}
        time.sleep(random_numbers.uniform(0.02, 0.7))
        for child in random_numbers.sample(sorted(children), random_numbers.randint(1, 2)):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            children.remove(child)
            kills -= 1
            look()
            if not kills:
                break
        for child in children:
            if random_numbers.random() < 0.5:
                os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
    _, status = os.waitpid(forked(store), 0)
    assert status == 0
    look()


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    _, status = os.waitpid(forked(folder / "undisturbed"), 0)
    assert status == 0
    disturbed(folder / "killed", kills, random.Random(seed))


if __name__ == "__main__":
    main()
