"""Images too many to be held decoded: files in a table on disk, decoded batch by batch."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from varigrad.lab.batches import generator
from varigrad.lab.data import shuffled
from varigrad.lab.errors import LabError
from varigrad.lab.parquet import ImageTable, complete, from_hub

if TYPE_CHECKING:
    import pyarrow

CPU = torch.device("cpu")
_THREADS = 8  # decoding lets go of the interpreter


@dataclass(frozen=True)
class EncodedSplit:
    """Image files and their classes.

    Attributes:
        table: Columns `image` (structs of `bytes`) and `label`; may lie on disk.
        rows: Which of its rows belong to the split, int64.
    """

    table: pyarrow.Table
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def some(self, count: int) -> EncodedSplit:
        """`count` of them, or all if there are no more: always the same, drawn at random."""
        return replace(self, rows=self.rows[shuffled(len(self))[:count].numpy()])

    def file(self, position: int) -> tuple[bytes, int]:
        """An image file and its class."""
        row = int(self.rows[position])
        return self.table["image"][row]["bytes"].as_py(), self.table["label"][row].as_py()


@dataclass(frozen=True)
class EncodedData:
    """A data set in three parts, as files.

    Attributes:
        train: What the network is trained on.
        validation: Held out of the published training part.
        test: What is tested on.
        device: Where the batches go.
    """

    train: EncodedSplit
    validation: EncodedSplit
    test: EncodedSplit
    device: torch.device = CPU

    def to(self, device: torch.device) -> EncodedData:
        """The same for another device."""
        return replace(self, device=device)

    def whole(self) -> EncodedData:
        """The same with the validation part trained on, too."""
        rows = np.concatenate([self.train.rows, self.validation.rows])
        return replace(self, train=replace(self.train, rows=rows))

    def glance(self, count: int) -> EncodedData:
        """The same with no more than `count` images to validate and to test on."""
        return replace(self, validation=self.validation.some(count), test=self.test.some(count))


@dataclass(frozen=True)
class EncodedSet:
    """A data set of the hub whose images stay encoded.

    Attributes:
        table: What is stored there; its shape is what images are cut to.
        held_out: Share of the training part that validates.
    """

    table: ImageTable
    held_out: float

    def load(self, folder: Path | None) -> EncodedData:
        """The files, from `folder` where one is given, else from the hub or its cache.

        Raises:
            LabError: They are missing or not what they should be.
        """
        return _load(self, folder.resolve() if folder is not None else None)

    def whereabouts(self, folder: Path | None) -> str:
        """In the folder, in the cache, or still on the hub."""
        if folder is not None:
            found = all(self.table.files(part, folder) for part in ("train", "test"))
            return f"{'at hand' if found else 'missing'} in {folder}"
        return "at hand (downloaded before)" if self.table.cached() else "on the hub (accept its terms first)"


@functools.cache
def _load(source: EncodedSet, folder: Path | None) -> EncodedData:
    train, test = (_part(source.table, part, folder) for part in ("train", "test"))
    count = round(source.held_out * len(train))
    if not 0 < count < len(train):
        raise LabError(f"{source.table.hub_id}: {len(train)} training images are too few to hold some out")
    order = shuffled(len(train)).numpy()
    return EncodedData(
        EncodedSplit(train, order[count:]), EncodedSplit(train, order[:count]), EncodedSplit(test, np.arange(len(test)))
    )


def _part(table: ImageTable, part: str, folder: Path | None) -> pyarrow.Table:
    import pyarrow
    import pyarrow.dataset

    if folder is None:
        rows = from_hub(table, part)  # mapped into memory by the datasets library
    else:
        try:
            rows = pyarrow.dataset.dataset([str(path) for path in complete(table, part, folder)]).to_table()
        except (pyarrow.ArrowException, OSError) as error:
            raise LabError(f"cannot read {table.hub_id} in {folder}: {error}; copy it again") from error
    if not {table.image_column, table.label_column} <= set(rows.column_names):
        raise LabError(
            f"{table.hub_id}: expected columns {table.image_column} and {table.label_column}, found "
            f"{', '.join(rows.column_names) or 'none'}"
        )
    return rows.select([table.image_column, table.label_column]).rename_columns(["image", "label"])


class EncodedBatches:
    """The batches of one run: every image cut out at random and mirrored or not, or cut out of the middle.

    The next batch is decoded while the network is busy with the one before.
    """

    def __init__(self, split: EncodedSplit, cut: Callable[[int, int], torch.Tensor], data: EncodedData, size: int):
        self._split = split
        self._cut = cut
        self._data = data
        self._size = min(size, len(split))
        self._pool = ThreadPoolExecutor(_THREADS)
        self._ahead: dict[int, Future[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        self.seed = 0

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        future = self._ahead.pop(step, None)
        images, labels = future.result() if future else self._decode(step, self._positions(step))
        self._ahead = {step + 1: self._pool.submit(self._decode, step + 1, self._positions(step + 1))}
        return images.to(self._data.device), labels.to(self._data.device)

    def _positions(self, step: int) -> np.ndarray:
        epoch, position = divmod(step, len(self._split) // self._size)
        if epoch != self._order[0]:
            order = torch.randperm(len(self._split), generator=generator(self.seed, "order", epoch)).numpy()
            self._order = (epoch, order)
        return self._order[1][position * self._size : (position + 1) * self._size]

    def _decode(self, step: int, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        images = [self._cut(int(position), step) for position in positions]
        labels = torch.tensor([self._split.file(int(position))[1] for position in positions])
        return torch.stack(images), labels


@dataclass(frozen=True)
class EncodedClassification:
    """Cross-entropy and accuracy of images that are decoded when they are needed.

    For training a piece of 8 % to 100 % of the image, three to four up to four to three, is scaled to size and
    mirrored or not; for judging, the image is scaled so that its shorter side is 8/7 of the size, and its middle cut.

    Attributes:
        size: Height and width that the network gets.
        mean: Mean of each channel on a scale from 0 to 1.
        std: Standard deviation of each channel on the same scale.
        evaluation_batch: Images per batch when the model is judged.
    """

    size: int
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    evaluation_batch: int = 250

    def batches(self, data: EncodedData, batch_size: int, seed: int, pad: int) -> EncodedBatches:
        """Every epoch a permutation of its own."""

        def cut(position: int, step: int) -> torch.Tensor:
            return self._random_piece(data.train.file(position)[0], generator(seed, f"piece {position}", step))

        batches = EncodedBatches(data.train, cut, data, batch_size)
        batches.seed = seed
        return batches

    def loss(self, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy."""
        return nn.functional.cross_entropy(model(inputs), targets)

    def measure(self, model: nn.Module, data: EncodedData, part: str) -> tuple[float, float]:
        """Mean cross-entropy, and share of the images whose class has the highest score."""
        split: EncodedSplit = getattr(data, part)
        loss = correct = 0.0
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(split), self.evaluation_batch):
                files = [split.file(row) for row in range(start, min(start + self.evaluation_batch, len(split)))]
                images = torch.stack(list(pool.map(self._middle, (file for file, _ in files)))).to(data.device)
                labels = torch.tensor([label for _, label in files], device=data.device)
                logits = model(images)
                loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
                correct += (logits.argmax(1) == labels).sum().item()
        return loss / len(split), correct / len(split)

    def _random_piece(self, file: bytes, draws: torch.Generator) -> torch.Tensor:
        from PIL import Image

        image = _open(file)
        width, height = image.size
        share, stretch, x, y, mirror = torch.rand(5, generator=draws).tolist()
        area = width * height * (0.08 + 0.92 * share)
        ratio = math.exp(math.log(3 / 4) + stretch * math.log(16 / 9))
        wide, high = min(width, round(math.sqrt(area * ratio))), min(height, round(math.sqrt(area / ratio)))
        left, top = int(x * (width - wide + 1)), int(y * (height - high + 1))
        box = (left, top, left + max(1, wide), top + max(1, high))
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        return self._tensor(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror < 0.5 else image)

    def _middle(self, file: bytes) -> torch.Tensor:
        from PIL import Image

        image = _open(file)
        side = 7 / 8 * min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        return self._tensor(image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box))

    def _tensor(self, image: object) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        mean, std = torch.tensor(self.mean).view(3, 1, 1), torch.tensor(self.std).view(3, 1, 1)
        return (pixels - mean) / std


def _open(file: bytes):  # type: ignore[no-untyped-def] # Pillow is imported where it is used
    from PIL import Image

    try:
        return Image.open(io.BytesIO(file)).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise LabError(f"an image is damaged ({error}); copy the data again") from error


IMAGENET = EncodedSet(
    ImageTable(
        "ILSVRC/imagenet-1k",
        image_column="image",
        label_column="label",
        shape=(3, 224, 224),
        classes=1000,
        test="validation",  # the published test part has no labels
        formats=("JPEG",),
    ),
    held_out=1 / 100,
)
