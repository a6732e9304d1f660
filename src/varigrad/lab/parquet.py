"""Image data sets stored as parquet tables of PNG or JPEG files, in a folder or on the hub."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from varigrad.lab.decoded import decoded
from varigrad.lab.errors import LabError

if TYPE_CHECKING:  # imported where it is used: `varigrad list` needs no data and starts the quicker for it
    import pyarrow


@dataclass(frozen=True)
class ImageTable:
    """What a data set of the hub holds.

    Attributes:
        hub_id: Its name there, such as `"ylecun/mnist"`.
        image_column: Column of the images: structs of `bytes` (an image file) and `path`.
        label_column: Column of the classes: integers from 0 to `classes - 1`.
        shape: Channels (1 or 3), height and width of every image.
        classes: Number of classes.
        test: What the part to test on is called there.
        formats: The formats its files have. Grey images among colour ones are taken from data sets with JPEG only.
    """

    hub_id: str
    image_column: str
    label_column: str
    shape: tuple[int, int, int]
    classes: int
    test: str = "test"
    formats: tuple[str, ...] = ("PNG",)

    def part(self, part: str) -> str:
        """What `"train"` or `"test"` is called there."""
        return self.test if part == "test" else part

    def files(self, part: str, folder: Path) -> list[Path]:
        """The files of `"train"` or `"test"` below `folder`, in order; none where there are none."""
        return sorted((folder / self.hub_id).rglob(f"{self.part(part)}-*.parquet"))

    def cached(self) -> bool:
        """Whether an earlier download of the data set seems to lie in the cache of `datasets` on this machine."""
        home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
        cache = Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets"))
        return (cache / self.hub_id.replace("/", "___")).is_dir()


def load_table(table: ImageTable, part: str, folder: Path | None) -> tuple[torch.Tensor, torch.Tensor]:
    """All images, uint8 shaped (N, channels, height, width), and all classes, int64, of one part.

    Args:
        table: Which data set.
        part: `"train"` or `"test"`.
        folder: A folder laid out like the hub, or None for the hub itself (or its cache).

    Raises:
        LabError: The data is missing, damaged or not what `table` says.
    """
    if folder is None:
        return decode(from_hub(table, part), table, f"{table.hub_id} ({table.part(part)}) from the hub")
    files = complete(table, part, folder)
    parts = [decode(_read(path, table), table, str(path)) for path in files]
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def complete(table: ImageTable, part: str, folder: Path) -> list[Path]:
    """The files of a part, all of them.

    Raises:
        LabError: Some are missing.
    """
    files, part = table.files(part, folder), table.part(part)
    if not files:
        raise LabError(
            f"no {part} data of {table.hub_id} in {folder}: expected "
            f"{folder / table.hub_id}/{part}-00000-of-00001.parquet; lay the folder out like {table.hub_id} on the "
            "hub, or give no folder (neither --data-dir nor VARIGRAD_DATA) and it is downloaded"
        )
    # A folder with one of two files missing would train on half the data and say nothing.
    stated = re.search(r"-of-(\d+)(-[0-9a-f]+)?\.parquet$", files[0].name)
    if stated and len(files) != int(stated[1]):
        raise LabError(
            f"{len(files)} of {int(stated[1])} {part} files of {table.hub_id} in {folder / table.hub_id}: "
            "expected each once"
        )
    return files


def _read(path: Path, table: ImageTable) -> pyarrow.Table:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise LabError(
            f"cannot read {path}: {error}; expected the parquet file of {table.hub_id}, whole: copy it again"
        ) from error


def from_hub(table: ImageTable, part: str) -> pyarrow.Table:
    """A part as the hub, or the cache of earlier downloads, has it.

    Raises:
        LabError: It cannot be had.
    """
    import datasets
    import huggingface_hub

    # Their progress bars would tear ours apart, and their warnings about retries would bury the one line that matters.
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        return datasets.load_dataset(table.hub_id, split=table.part(part)).data.table
    except Exception as error:  # whatever the network, the hub or its cache come up with, the remedy is the same
        raise LabError(
            f"cannot get {table.hub_id} from the hub ({type(error).__name__}: {error}); connect to the network, "
            "or give a folder laid out like the hub with --data-dir or VARIGRAD_DATA"
        ) from error


def decode(rows: pyarrow.Table, table: ImageTable, origin: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode every image of an arrow table.

    Args:
        rows: The arrow table.
        table: What it should hold.
        origin: Where it came from, for messages.

    Raises:
        LabError: A column is missing or of the wrong kind, an image damaged or of another size, a class out of range.
    """
    import pyarrow

    image_column, label_column = table.image_column, table.label_column
    expected = f"expected columns {image_column} (structs of bytes, path) and {label_column} (integers)"
    if not {image_column, label_column} <= set(rows.column_names):
        raise LabError(f"{origin}: {expected}, found {', '.join(rows.column_names) or 'none'}")
    try:
        # The column of bytes goes to PIL as it lies there: formatting row by row costs more than the decoding.
        pngs = rows[image_column].combine_chunks().field("bytes").to_pylist()
        labels = rows[label_column].to_numpy().astype(np.int64, casting="safe")
    except (pyarrow.ArrowException, AttributeError, KeyError, TypeError) as error:
        raise LabError(f"{origin}: {expected}, found {_types(rows, (image_column, label_column))}") from error
    if not pngs:
        raise LabError(f"{origin}: no rows; expected the images of {table.hub_id}")
    if labels.min() < 0 or labels.max() >= table.classes:
        raise LabError(
            f"{origin}: {label_column} runs from {labels.min()} to {labels.max()}, expected 0 to {table.classes - 1}"
        )
    pixels = decoded(pngs, (len(pngs), *table.shape), lambda: _decode_pngs(pngs, table, origin))
    return torch.from_numpy(pixels), torch.from_numpy(labels)


def _types(rows: pyarrow.Table, columns: Sequence[str]) -> str:
    return " and ".join(f"{column}: {rows.schema.field(column).type}" for column in columns)


def _decode_pngs(pngs: list[bytes], table: ImageTable, origin: str) -> np.ndarray:
    from PIL import Image

    channels, height, width = table.shape
    mode = "L" if channels == 1 else "RGB"
    pixels = np.empty((len(pngs), height, width, channels), dtype=np.uint8)
    for row, png in enumerate(pngs):
        try:
            with Image.open(io.BytesIO(png), formats=table.formats) as opened:
                # Photographs in grey stand among those in colour; drawn digits in colour would be a mistake.
                image = opened.convert(mode) if "JPEG" in table.formats else opened
                content = image.tobytes()
                found = f"{image.mode} {image.height}x{image.width}"
        except (OSError, SyntaxError, TypeError, ValueError) as error:
            expected = " or ".join(table.formats)
            raise LabError(f"{origin}: image {row} is damaged ({error}); expected {expected} files") from error
        if found != f"{mode} {height}x{width}":
            raise LabError(f"{origin}: image {row} is {found}, expected {mode} {height}x{width}")
        pixels[row] = np.frombuffer(content, np.uint8).reshape(height, width, channels)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
