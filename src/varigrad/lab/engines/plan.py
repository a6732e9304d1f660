"""Which engine carries out the runs of a command, as its options say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from varigrad.lab import options
from varigrad.lab.data import Data
from varigrad.lab.engines.here import Here
from varigrad.lab.engines.jobs import Engine
from varigrad.lab.engines.processes import Processes
from varigrad.lab.errors import LabError
from varigrad.lab.files import require_writable_directory
from varigrad.lab.store.folder import Store, require_store
from varigrad.lab.tasks import Task

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Plan:
    """What was chosen.

    Attributes:
        name: One of `ENGINES`.
        store: The folder of the store, which need not exist yet.
        workers: How many runs are made at once; what a Ray cluster does is its own affair.
        threads: CPU threads of a run; None if PyTorch chooses.
        device: Where runs are made.
    """

    name: str
    store: Path
    workers: int
    threads: int | None
    device: torch.device

    @classmethod
    def parse(cls, name: str, store: Path, workers: str | None, threads: int | None, device: torch.device) -> Plan:
        """The plan that the options of the command line say; nothing is made yet.

        Raises:
            LabError: An option is wrong, or the store cannot be written.
        """
        if name not in ENGINES:
            raise LabError(f"--engine {name!r} does not exist (accepted: {', '.join(ENGINES)})")
        if name == "ray":
            from varigrad.lab.engines.cluster import require_ray

            require_ray()
        require_store(store)
        require_writable_directory(store, "--store")
        return cls(name, store, options.parse_workers(workers, threads, device), threads, device)

    def engine(
        self,
        data: Callable[[Task], Data],
        folder: Path | None,
        environment: Mapping[str, str],
        tell: Callable[[str], None],
        names: Mapping[str, str] = MappingProxyType({}),
    ) -> Engine:
        """The engine, with its store, which is made here if there is none.

        Args:
            data: The data of a task, on the device; used by this process alone.
            folder: What other processes load data from.
            environment: What is kept with the runs, `"command"` at least.
            tell: Told in one line what is found damaged.
            names: For the names of tasks and optimizers those by which another process finds them, where they differ.
        """
        store = Store(self.store, tell=tell)
        threads = self.threads or torch.get_num_threads()
        if self.name == "ray":
            from varigrad.lab.engines.cluster import Cluster

            return Cluster(store, self.device.type, threads, folder, environment, tell, names)
        if self.workers == 1:
            return Here(data, store, environment)
        devices = [str(self.device)] * self.workers
        if str(self.device) == "cuda":  # any of them
            devices = [f"cuda:{number % torch.cuda.device_count()}" for number in range(self.workers)]
        return Processes(store, devices, threads, folder, environment, tell, names)
