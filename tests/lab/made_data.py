"""Small folders laid out like the hub, with images whose every pixel is known."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image


def pixels(count: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def write_table(path: Path, images: list[bytes], labels: list[int], image: str = "image", label: str = "label") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    structs = [{"bytes": content, "path": None} for content in images]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    table = pyarrow.table({image: pyarrow.array(structs, kind), label: pyarrow.array(labels, pyarrow.int64())})
    pyarrow.parquet.write_table(table, path)
    return path


def mnist_folder(folder: Path, train: int = 48, test: int = 12) -> Path:
    for seed, (part, count) in enumerate((("train", train), ("test", test))):
        images = [png(image) for image in pixels(count, (28, 28), seed)]
        labels = [row % 10 for row in range(count)]
        write_table(folder / "ylecun" / "mnist" / f"{part}-00000-of-00001.parquet", images, labels)
    return folder


def cifar10_folder(folder: Path, train: int = 40, test: int = 10) -> Path:
    for seed, (part, count) in enumerate((("train", train), ("test", test))):
        images = [png(image) for image in pixels(count, (32, 32, 3), seed)]
        labels = [row % 10 for row in range(count)]
        write_table(folder / "uoft-cs" / "cifar10" / f"{part}-00000-of-00001.parquet", images, labels, image="img")
    return folder


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()
