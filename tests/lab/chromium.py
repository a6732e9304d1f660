"""Looking at a page in a real browser, without a network."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def look(page: Path, folder: Path, *, height: int = 1500) -> tuple[str, Path]:
    """Opens a page, lets its scripts run, and returns the document they have made of it and a picture.

    Args:
        page: The page; it must not complain in the browser's console.
        folder: Where the browser's profile and the picture go.
        height: Of the window, in pixels; it is 1,100 wide.
    """
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    picture = folder / "picture.png"
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
        *(f"--user-data-dir={folder / 'profile'}", f"--window-size=1100,{height}", "--virtual-time-budget=20000"),
        "--host-resolver-rules=MAP * ~NOTFOUND",  # no network
        *("--enable-logging=stderr", f"--screenshot={picture}", "--dump-dom", page.as_uri()),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    errors = [line for line in ended.stderr.splitlines() if ":CONSOLE" in line or "CONSOLE:" in line]
    assert errors == []
    return ended.stdout, picture


def shown(page: Path, folder: Path) -> str:
    """The page's elements after its scripts have run."""
    return look(page, folder, height=3000)[0]
