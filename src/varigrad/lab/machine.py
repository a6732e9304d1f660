"""The machine an experiment runs on: its devices, its threads, and what should be told about it."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import subprocess
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import torch

from varigrad.lab.errors import LabError
from varigrad.version import __version__


def find_device(name: str) -> torch.device:
    """The device called `name`, tried out.

    Args:
        name: `"auto"` (CUDA where there is one, else the CPU) or what PyTorch calls a device: `"cpu"`, `"cuda"`,
            `"cuda:1"`, `"mps"`.

    Raises:
        LabError: There is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.ones(1, device=device).add(1).item()
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        accepted = ["auto", "cpu"]
        if torch.cuda.is_available():
            accepted += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            accepted.append("mps")
        raise LabError(f"device {name!r} is not available here (accepted: {', '.join(accepted)})") from error
    return device


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with `count` CPU threads for a while; None leaves things as they are."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


def provenance(command: str, device: torch.device) -> dict[str, str]:
    """Where results come from: what a reader needs to repeat them and to judge the times.

    Args:
        command: The command line that produced them.
        device: The device the networks were trained on.
    """
    told = {
        "command": command,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "varigrad": __version__,
        **({"commit": commit} if (commit := _commit()) else {}),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "threads": str(torch.get_num_threads()),
        "device": str(device),
    }
    if device.type == "cuda":
        told["gpu"] = torch.cuda.get_device_name(device)
    return told


@functools.cache
def _commit() -> str | None:
    """The commit of varigrad's own source, where that is under version control; with + if it has been changed."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy may lie inside another project's repository
        changed = git("status", "--porcelain", "--untracked-files=no", ":/src")
        return git("rev-parse", "HEAD")[:12] + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def processor() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):  # Linux has the name here; platform.processor() is empty there
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
