"""Looking at a page in a real browser, without a network."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def look(page: Path, folder: Path, *, height: int = 1500) -> tuple[str, Path]:
    """Opens a page, lets its scripts run, and returns the document they have made of it and a picture.

    Args:
        page: The page.
        folder: Where the browser's profile and the picture go.
        height: Of the window, in pixels; it is 1,100 wide.
    """
    assert CHROMIUM is not None
    picture = folder / "picture.png"
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *(f"--user-data-dir={folder / 'profile'}", f"--window-size=1100,{height}", "--virtual-time-budget=5000"),
        "--host-resolver-rules=MAP * ~NOTFOUND",  # no network
        *(f"--screenshot={picture}", "--dump-dom", page.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, picture
