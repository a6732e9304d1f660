"""What building the site needs beside mkdocs.yml."""

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Leaves out of the navigation what is not written yet."""
    config.nav = [entry for section in config.nav if (entry := _written(section, Path(config.docs_dir)))]
    return config


def _written(entry: Any, folder: Path) -> Any:
    if isinstance(entry, str):
        return entry if (folder / entry).exists() else None
    if isinstance(entry, dict):
        return {title: kept for title, value in entry.items() if (kept := _written(value, folder))}
    return [kept for value in entry if (kept := _written(value, folder))]
