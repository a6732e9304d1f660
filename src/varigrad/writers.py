"""Where a NoiseMonitor's figures go: files, TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import csv
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .record import COLUMNS, NoiseRecord

__all__ = ["CSV", "JSONLines", "MLflow", "TensorBoard", "WandB", "Writer"]


class Writer(ABC):
    """Takes the records of a `NoiseMonitor`; derive from it to send them elsewhere.

    Example:
        >>> from varigrad.writers import Writer
        >>> class Printed(Writer):
        ...     def write(self, record):
        ...         print(record.step, record.snr())
    """

    @abstractmethod
    def write(self, record: NoiseRecord) -> None:
        """Takes one record. If it raises, the monitor warns once and does without this writer from then on."""

    def close(self) -> None:  # noqa: B027 - not every writer has something to close
        """Ends it; nothing is written afterwards."""


class JSONLines(Writer):
    """One line of JSON for every look, in `FOLDER/noise.jsonl`: what `varigrad noise FOLDER` reads.

    A line is an object with "step", "source", "optimizer", "batch_size" and "layers": for each layer its figures, null
    where unknown. Lines are appended, so that a resumed run goes on in the same file. Each is flushed: a killed run
    loses nothing but perhaps its last line.

    Args:
        folder: The folder; made if it does not exist.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / "noise.jsonl"
        self._file: Any = None

    def write(self, record: NoiseRecord) -> None:
        """Appends a line."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n") and self.path.stat().st_size > 0
            self._file = self.path.open("a", encoding="utf-8")
            if torn:  # by a killed run; what is left of its line must not spoil ours
                self._file.write("\n")
        layers = {
            layer: {name: value if math.isfinite(value) else None for name, value in row.items()}
            for layer, row in record.layers.items()
        }
        line = {
            "step": record.step,
            "source": record.source,
            "optimizer": record.optimizer,
            "batch_size": record.batch_size,
            "layers": layers,
        }
        self._file.write(json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class CSV(Writer):
    """One row for every look and layer, with the figures, the signal-to-noise ratio and the noise scale.

    Args:
        path: The file; its folder must exist. It is written anew.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: Any = None

    def write(self, record: NoiseRecord) -> None:
        """Appends the rows of a record."""
        new = self._file is None
        if new:
            self._file = self.path.open("w", encoding="utf-8", newline="")
        rows = csv.writer(self._file)
        if new:
            rows.writerow(("step", "layer", "source", *COLUMNS, "snr", "noise_scale"))
        for layer, row in record.layers.items():
            figures = (*(row[name] for name in COLUMNS), record.snr(layer), record.noise_scale(layer))
            rows.writerow((record.step, layer, record.source, *figures))
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def scalars(record: NoiseRecord) -> Iterator[tuple[str, float]]:
    """Yields what a plotting backend gets: names such as `noise/snr/layer`, and finite numbers."""
    for layer, row in record.layers.items():
        figures = {"snr": record.snr(layer), "noise_scale": record.noise_scale(layer), **row}
        del figures["weights"]
        for name, value in figures.items():
            if math.isfinite(value):
                yield f"noise/{name}/{layer}", value
    for name, value in (("snr", record.snr()), ("noise_scale", record.noise_scale())):
        if math.isfinite(value):
            yield f"noise/{name}", value


class TensorBoard(Writer):
    """Scalars `noise/snr/layer` and so on, and `noise/snr` and `noise/noise_scale` over all.

    Args:
        folder: Where the event files go; or a `SummaryWriter`, which is left open.

    Raises:
        ImportError: If tensorboard is not installed.
    """

    def __init__(self, folder: Any) -> None:
        self._own = isinstance(folder, (str, Path))
        if self._own:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError("varigrad.writers.TensorBoard needs tensorboard: pip install tensorboard") from error
            folder = SummaryWriter(str(folder))
        self._board = folder

    def write(self, record: NoiseRecord) -> None:
        """Adds the scalars of a record."""
        for name, value in scalars(record):
            self._board.add_scalar(name, value, record.step)

    def close(self) -> None:
        """Closes the event file, if it is ours."""
        if self._own:
            self._board.close()


class WandB(Writer):
    """The same scalars in a Weights & Biases run.

    Args:
        run: The run; None for `wandb.run`, the one that is open.

    Raises:
        ImportError: If wandb is not installed.
        RuntimeError: If no run is open.
    """

    def __init__(self, run: Any = None) -> None:
        if run is None:
            try:
                import wandb
            except ImportError as error:
                raise ImportError("varigrad.writers.WandB needs wandb: pip install wandb") from error
            run = wandb.run
            if run is None:
                raise RuntimeError("varigrad.writers.WandB finds no open run: call wandb.init() first")
        self._run = run

    def write(self, record: NoiseRecord) -> None:
        """Logs the scalars of a record, with the number of the step among them."""
        # Without step=: W&B drops what comes with a step before that of its own last log.
        self._run.log({**dict(scalars(record)), "noise/step": record.step})


class MLflow(Writer):
    """The same scalars as metrics of the active MLflow run.

    Args:
        client: What has `log_metrics(metrics, step=...)`; None for the module `mlflow`.

    Raises:
        ImportError: If mlflow is not installed.
    """

    def __init__(self, client: Any = None) -> None:
        if client is None:
            try:
                import mlflow
            except ImportError as error:
                raise ImportError("varigrad.writers.MLflow needs mlflow: pip install mlflow") from error
            client = mlflow
        self._client = client

    def write(self, record: NoiseRecord) -> None:
        """Logs the metrics of a record."""
        self._client.log_metrics(dict(scalars(record)), step=record.step)
