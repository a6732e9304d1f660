"""The same grid on a Ray cluster of two nodes on this machine, of which one is lost, and a process killed."""

import dataclasses
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from varigrad.lab.data import Digits
from varigrad.lab.engines.cluster import Cluster, require_ray
from varigrad.lab.engines.here import Here
from varigrad.lab.errors import LabError
from varigrad.lab.grid import compare
from varigrad.lab.optimizers import OPTIMIZERS
from varigrad.lab.store.folder import Store
from varigrad.lab.store.lease import Holder
from varigrad.lab.tasks import TASKS
from varigrad.lab.training import Settings

SOURCE = Path(__file__).parents[2] / "src"


def test_without_ray_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LabError, match=r"ray is not installed: pip install 'varigrad\[ray\]'"):
        require_ray()


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_grid_on_two_nodes_survives_the_loss_of_a_process_and_of_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    lost: list[str] = []

    def holders(store: Path) -> list[int]:
        found = (Holder.read(path) for path in store.glob("runs/*/lease.json"))
        return [holder.pid for holder in found if holder is not None]

    def lose(store: Path) -> None:
        while not holders(store):
            time.sleep(0.05)
        os.kill(holders(store)[0], signal.SIGKILL)
        lost.append("process")
        while len(list(store.glob("runs/*/result.json"))) < 3:
            time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)
        lost.append("node")

    found = []
    try:
        for name in ("here", "cluster"):
            store = Store(tmp_path / name, checkpoint_seconds=0.2)
            if name == "here":
                engine = Here(lambda task: Digits().load(None), store)
            else:
                engine = Cluster(store, "cpu", 1, None, {"command": "test"}, print)
                threading.Thread(target=lose, args=(tmp_path / name,), daemon=True).start()
            rows = [OPTIMIZERS["vsgd"], OPTIMIZERS["sgd"]]
            comparison = compare(
                TASKS["digits"], Digits().load(None), rows, range(3), Settings(300), [0.003, 0.01], engine=engine
            )
            found.append([run for c in comparison.contenders for rung in c.rungs for run in rung.runs])
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert lost == ["process", "node"]
    times = {"optimizer_ms": 0.0, "steps_per_second": 0.0, "seconds": ()}
    here, there = ([dataclasses.replace(run, **times) for run in runs] for runs in found)
    assert here == there
    assert [entry.status for entry in Store(tmp_path / "cluster").entries()] == ["done"] * 12
