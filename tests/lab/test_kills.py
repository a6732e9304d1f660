"""Whatever is killed, whenever: after going on every result is there once, and is that of an undisturbed grid."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from varigrad.lab.store.folder import Store

ROOT = Path(__file__).parents[2]


def start(program: str, *arguments: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"tests.lab.{program}", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True)


def computed(store: Path) -> dict[str, object]:
    """What every finished run gave, but for its times."""
    return {path.parent.name: json.loads(path.read_text())["run"] for path in store.glob("runs/*/result.json")}


def require_whole(store: Path, runs: int) -> None:
    """Every run is there once, nothing was damaged, and nothing is left over."""
    entries = Store(store).entries()
    assert [entry.status for entry in entries] == ["done"] * runs
    assert Store(store).damaged() == []
    for entry in entries:
        left = {path.name for path in entry.directory.iterdir()}
        assert left == {"specification.json", "environment.json", "result.json"}


@pytest.mark.parametrize("kills", [5, pytest.param(200, marks=pytest.mark.slow)])
def test_two_processes_that_share_a_store_and_are_killed(kills: int, tmp_path: Path) -> None:
    assert start("killed_grid", tmp_path, kills, kills).wait() == 0
    require_whole(tmp_path / "killed", 8)
    assert computed(tmp_path / "killed") == computed(tmp_path / "undisturbed")


def is_worked_on(store: Path) -> bool:
    return Store(store).folder.exists() and any(entry.status == "running" for entry in Store(store).entries())


def killed_at_random(driver: subprocess.Popen[bytes], store: Path, random_numbers: random.Random) -> str:
    """Kill a worker, the driver or everything, if it still runs: mostly in the middle of runs, else at any moment."""
    if random_numbers.random() < 0.8:
        while driver.poll() is None and not is_worked_on(store):
            time.sleep(0.02)
    time.sleep(random_numbers.uniform(0, 6))
    target = random_numbers.choice(["worker", "driver", "everything"])
    with contextlib.suppress(psutil.Error, ProcessLookupError):
        workers = psutil.Process(driver.pid).children()
        if target == "worker" and workers:
            random_numbers.choice(workers).kill()
        elif target == "everything":
            os.killpg(driver.pid, signal.SIGKILL)
        else:
            driver.kill()
    return target


@pytest.mark.slow
def test_fifty_kills_of_workers_drivers_and_everything(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert start("driven_grid", undisturbed, 2).wait() == 0
    random_numbers = random.Random(0)
    seen: dict[Path, bytes] = {}
    kills = number = 0
    while kills < 50:
        driver = start("driven_grid", killed, 2)
        while driver.poll() is None and kills < 50:
            print(kills, len(seen), killed_at_random(driver, killed, random_numbers))
            kills += 1
            time.sleep(0.1)
            results = {path: path.read_bytes() for path in killed.glob("runs/*/result.json")}
            assert all(results[path] == content for path, content in seen.items())  # never made twice
            seen |= results
        driver.wait()
        if len(computed(killed)) == 36 and kills < 50:  # done before the last kill: the same again in a new store
            require_whole(killed, 36)
            assert computed(killed) == computed(undisturbed)
            number, seen = number + 1, {}
            killed = tmp_path / f"killed-{number}"
    assert start("driven_grid", killed, 2).wait() == 0
    require_whole(killed, 36)
    assert computed(killed) == computed(undisturbed)
