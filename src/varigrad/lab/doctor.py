"""What of the package works on this machine, what does not, and how to mend it: `varigrad doctor`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import varigrad
from varigrad.engine import fused
from varigrad.engine.optimizer import RuleOptimizer
from varigrad.engine.rule import Rule
from varigrad.engine.threads import are_torchs
from varigrad.lab.machine import processor

Status = Literal["yes", "no", "warning", "broken"]

_STYLES = {"yes": "green", "no": "dim", "warning": "bold yellow", "broken": "bold red"}
_EXTRAS = ("lab", "lightning", "transformers", "accelerate", "timm", "ray")
_KERNELS = Path(fused.__file__).with_name("_kernels.so")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What was looked at.
        status: `"yes"`: there, and works; `"no"`: not there, which is no fault; `"warning"`: works worse than it
            could; `"broken"`: should work, and does not.
        detail: What was found, or why there is nothing.
        remedy: What to do about it; empty where nothing needs doing.
    """

    name: str
    status: Status
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Section:
    """Findings that belong together."""

    name: str
    findings: tuple[Finding, ...]


def examine(data_dir: Path | None) -> tuple[Section, ...]:
    """Looks at everything.

    Args:
        data_dir: The folder to look for data in, if any.
    """
    return (
        Section("Software", tuple(_software())),
        Section("Processor", tuple(_hardware())),
        Section("Ways to run a step", tuple(_ways())),
        Section("Extras", tuple(_extra(name) for name in _EXTRAS)),
        Section("Data", tuple(_data(data_dir))),
    )


def is_broken(sections: Iterable[Section]) -> bool:
    """Whether anything that should work does not."""
    return any(finding.status == "broken" for section in sections for finding in section.findings)


def _software() -> Iterator[Finding]:
    yield Finding("varigrad", "yes", f"{varigrad.__version__}, Python {platform.python_version()}")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm" if torch.version.hip else "CPU only"
    yield Finding("torch", "yes", f"{torch.__version__}, built for {build}")


def _hardware() -> Iterator[Finding]:
    threads = torch.get_num_threads()
    yield Finding("CPU", "yes", f"{processor()}, {os.cpu_count()} cores, torch uses {threads} of them")
    yield Finding("vector level", "yes", f"torch {torch.backends.cpu.get_cpu_capability()}; kernels {_vector_level()}")
    if not torch.cuda.is_available():
        why = "torch sees none" if torch.version.cuda or torch.version.hip else "this torch is built without CUDA"
        yield Finding("CUDA devices", "no", why)
        return
    for index in range(torch.cuda.device_count()):
        try:
            torch.ones(1, device=f"cuda:{index}").add(1).item()
        except RuntimeError as error:
            yield Finding(f"cuda:{index}", "broken", _line(error), "compare the driver (nvidia-smi) with torch's CUDA")
            continue
        about = torch.cuda.get_device_properties(index)
        memory = about.total_memory / 2**30
        detail = f"{about.name}, {memory:.0f} GiB, compute capability {about.major}.{about.minor}"
        yield Finding(f"cuda:{index}", "yes", detail)


def _vector_level() -> str:
    """The variant of the compiled code that the loader chooses on this processor, where it holds several."""
    if not _KERNELS.exists():
        return "none"
    # Named after GCC's target_clones, which storage.c asks for on x86 only.
    if b"avx2" not in _KERNELS.read_bytes():
        return "the compiler's default"
    try:
        flags = set(re.findall(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text("utf-8"), re.M)[0].split())
    except (OSError, IndexError):
        return "AVX512, AVX2 or the default, by the processor"
    # The fourth level of x86-64 is AVX512 with its extensions, of which VL is one.
    return "AVX512" if "avx512vl" in flags else "AVX2" if "avx2" in flags else "the default"


def _ways() -> Iterator[Finding]:
    yield Finding("loop", "yes", "on every device")
    yield _tried("foreach", {"foreach": True}, "on every device")
    yield _kernels()
    triton = _version("triton")
    if triton is None:
        yield Finding("Triton", "no", "not installed")
    else:
        works = torch.cuda.is_available()
        yield Finding("Triton", "yes" if works else "no", f"{triton}{'' if works else ', but no GPU to use it on'}")
    yield _compiler()


def _kernels() -> Finding:
    """The compiled kernels: there, of the present rules, and right."""
    name = "fused on CPUs"
    variants = [variant for rule in _rules() for variant in (rule, *map(rule.taking, rule.optional))]
    reasons = {rule.name: fused.unavailable(rule) for rule in variants}
    bad = {rule: reason for rule, reason in reasons.items() if reason}
    if not bad:
        where = "torch's own threads" if are_torchs() else "threads of their own"
        detail = f"compiled kernels for {len(reasons)} rules, of the present version, in {where}"
        return _tried(name, {"fused": True}, detail)
    if not _KERNELS.exists():
        return Finding(name, "warning", bad[next(iter(bad))], f"install a C compiler, then {_rebuild()}")
    if len(set(bad.values())) == 1 and len(bad) == len(reasons):  # the library itself
        return Finding(name, "broken", bad[next(iter(bad))], _rebuild())
    stale = f"the compiled kernels are stale for {', '.join(bad)}; these run foreach"
    return Finding(name, "warning", stale, _rebuild())


def _rules() -> list[Rule]:
    """The rules of all optimizers that are exported."""
    kinds = [getattr(varigrad, name) for name in varigrad.__all__]
    modules = {kind.__module__ for kind in kinds if isinstance(kind, type) and issubclass(kind, RuleOptimizer)}
    values = [value for module in sorted(modules) for value in vars(sys.modules[module]).values()]
    return list({value.name: value for value in values if isinstance(value, Rule)}.values())


def _rebuild() -> str:
    checkout = Path(varigrad.__file__).parents[2]
    if (checkout / "setup.py").exists():
        return f"run: {Path(sys.executable).name} setup.py build_ext --inplace  (or make kernels) in the checkout"
    return "run: pip install --force-reinstall --no-deps varigrad"


def _tried(name: str, way: dict[str, bool], detail: str) -> Finding:
    """Whether a way does what the plain loop does, to the last few bits, on a few numbers."""
    trails = []
    try:
        for flags in ({"foreach": False, "fused": False}, way):
            weight = torch.linspace(-1, 1, 1000, requires_grad=True)
            optimizer = varigrad.VSGD([weight], lr=1e-2, **flags)  # type: ignore[arg-type]
            for step in range(3):
                weight.grad = torch.linspace(-1, 1, 1000).mul(step + 1).cos()
                optimizer.step()
            trails.append(weight.detach())
    except (RuntimeError, OSError) as error:
        return Finding(name, "broken", _line(error), _rebuild())
    if not torch.allclose(trails[0], trails[1], rtol=1e-5, atol=1e-7):
        return Finding(name, "broken", "gives other results than the plain loop", _rebuild())
    return Finding(name, "yes", f"{detail}; tried")


def _compiler() -> Finding:
    """What torch.compile needs to make code for a CPU."""
    wanted = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    found = shutil.which("cl" if sys.platform == "win32" else wanted)
    if found is None:
        return Finding("torch.compile", "no", f"no C++ compiler ({wanted}) for CPUs; set CXX, or install one")
    return Finding("torch.compile", "yes", f"C++ compiler {found}")


def _extra(extra: str) -> Finding:
    """Whether the packages of an extra are installed, by the list that the installed package carries."""
    try:
        required = importlib.metadata.requires("varigrad") or []
    except importlib.metadata.PackageNotFoundError:
        return Finding(extra, "no", "not known: varigrad is imported from a folder, not installed")
    marker = re.compile(rf"extra == ['\"]{extra}['\"]")
    matches = [re.match(r"[\w.-]+", line) for line in required if marker.search(line)]
    names = [match[0] for match in matches if match and match[0] != "varigrad"]
    versions = {name: _version(name) for name in names}
    missing = [name for name, version in versions.items() if version is None]
    there = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    if not missing:
        return Finding(extra, "yes", there)
    remedy = f"pip install 'varigrad[{extra}]'" if there else ""
    return Finding(extra, "warning" if there else "no", f"not installed: {', '.join(missing)}", remedy)


def _data(data_dir: Path | None) -> Iterator[Finding]:
    """Where the data of the tasks is, once for all tasks that share it."""
    if data_dir is None:
        yield Finding("folder", "no", "VARIGRAD_DATA is not set: data is downloaded from the hub")
    elif not data_dir.is_dir():
        yield Finding("folder", "broken", f"{data_dir} is no folder", "set VARIGRAD_DATA to one, or unset it")
        return
    else:
        yield Finding("folder", "yes", str(data_dir))
    try:
        from varigrad.lab.tasks import TASKS

        sharing: dict[object, list[str]] = {}
        for task in TASKS.values():
            sharing.setdefault(task.data, []).append(task.name)
        for names in sharing.values():
            where = TASKS[names[0]].data.whereabouts(data_dir)
            others = f"; also for {', '.join(names[1:])}" if len(names) > 1 else ""
            yield Finding(names[0], "yes" if where.startswith(("at hand", "none")) else "no", where + others)
    except ModuleNotFoundError as error:
        yield Finding("tasks", "warning", f"{error.name} is not installed", "pip install 'varigrad[lab]'")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def to_json(sections: Iterable[Section]) -> str:
    """The findings as JSON: `format`, `version`, `broken`, and `sections` with the fields of `Finding`."""
    listed = list(sections)
    record: dict[str, Any] = {
        "format": "varigrad-doctor",
        "version": 1,
        "broken": is_broken(listed),
        "sections": [asdict(section) for section in listed],
    }
    return json.dumps(record, indent=1, ensure_ascii=False)


def sheet(sections: Iterable[Section]) -> RenderableType:
    """The findings for the terminal: a block for each section, and in the last line what there is to mend.

    Args:
        sections: What was found.
    """
    listed = list(sections)
    longest = max(len(finding.name) for section in listed for finding in section.findings)
    blocks: list[RenderableType] = []
    for section in listed:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=longest, no_wrap=True)
        grid.add_column(width=7, no_wrap=True)
        grid.add_column(overflow="fold")
        for finding in section.findings:
            style = _STYLES[finding.status]
            detail = Text(finding.detail, style="dim" if finding.status == "no" else "")
            if finding.remedy:
                detail.append(f"\n{finding.remedy}", style="cyan")
            grid.add_row(Text(finding.name), Text(finding.status, style=style), detail)
        blocks += [Text(section.name, style="bold"), Padding(grid, (0, 0, 0, 2)), Text()]
    counts = {s: sum(f.status == s for section in listed for f in section.findings) for s in ("broken", "warning")}
    told = [f"{count} {'broken' if status == 'broken' else 'to mend'}" for status, count in counts.items() if count]
    style = _STYLES["broken" if counts["broken"] else "warning" if counts["warning"] else "yes"]
    return Group(*blocks, Text(", ".join(told) + "." if told else "Everything that is installed works.", style=style))
