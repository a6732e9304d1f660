"""A real browser for the tests of pages."""

import shutil
import subprocess
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium")
    return found


def shown(page: Path, folder: Path) -> str:
    """The page's elements after its scripts have run, its errors among them."""
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    options = [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000", "--window-size=1100,3000"]
    told = ["--enable-logging=stderr", "--dump-dom", page.as_uri()]
    ended = subprocess.run([*command, *options, *told], capture_output=True, text=True, timeout=240, check=True)
    errors = [line for line in ended.stderr.splitlines() if ":CONSOLE" in line or "CONSOLE:" in line]
    assert errors == []
    return ended.stdout
