"""The toy rules compiled exactly as the package's own are, by the package's own build command."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from varigrad.engine import fused

from .toy_rules import RANDOM_RULES, RULES, learned, summing

SETUP = Path(__file__).parents[2] / "setup.py"


def compile_rules(rules, folder: Path) -> Path:
    """Runs the build command of setup.py on `rules` instead of the package's; returns the library."""
    setuptools = pytest.importorskip("setuptools")
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no C compiler {compiler}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **_: None)
        spec = importlib.util.spec_from_file_location("varigrad_setup", SETUP)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    module.rules = lambda: list(rules)
    distribution = setuptools.Distribution({"ext_modules": [setuptools.Extension("kernels", sources=[])]})
    command = module.BuildKernels(distribution)
    command.build_lib, command.build_temp = str(folder), str(folder / "temporary")
    command.ensure_finalized()
    command.run()
    return folder / "kernels.so"


@pytest.fixture(scope="session")
def toy_library(tmp_path_factory) -> Path:
    """The library of all toy rules, compiled once in a run of the tests, however many processes that has."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder /= "toy_library"
    with FileLock(folder.with_suffix(".lock")):
        if (folder / "kernels.so").exists():
            return folder / "kernels.so"
        folder.mkdir(exist_ok=True)
        # The variant of a rule that takes an optional argument is compiled with the rule itself.
        return compile_rules([rule for rule in (*RULES, learned, summing, *RANDOM_RULES) if not rule.taken], folder)


@pytest.fixture
def use_library(monkeypatch):
    """Returns a function that puts a library, or the reason why there is none, in the packaged one's place."""

    def use(library) -> None:
        loaded = ctypes.CDLL(str(library)) if isinstance(library, Path) else library
        monkeypatch.setattr(fused, "kernels", lambda: loaded)
        fused.unavailable.cache_clear()

    yield use
    fused.unavailable.cache_clear()


@pytest.fixture
def toy_kernels(toy_library, use_library) -> None:
    use_library(toy_library)


@pytest.fixture(params=["loop", "foreach", "fused"])
def way(request) -> dict[str, bool]:
    """The flags that ask for each way in turn."""
    if request.param == "fused":
        request.getfixturevalue("toy_kernels")
        return {"fused": True}
    return {"foreach": request.param == "foreach"}


@pytest.fixture
def threads():
    """Returns a function that sets how many threads torch, and so the fused way, may use."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
