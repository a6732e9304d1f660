"""Texts as the lab holds them: every symbol a number, in memory."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from varigrad.lab.errors import LabError


@dataclass(frozen=True)
class TextData:
    """A text in three consecutive parts.

    Attributes:
        train: Numbers of the symbols, int64, shaped (N,).
        validation: What follows.
        test: The rest.
        alphabet: The symbols, in the order of their numbers.
        rows: How many rows each part is read in when a model is judged.
    """

    train: torch.Tensor
    validation: torch.Tensor
    test: torch.Tensor
    alphabet: str
    rows: int

    def to(self, device: torch.device) -> TextData:
        """The same text on another device."""
        return replace(
            self, train=self.train.to(device), validation=self.validation.to(device), test=self.test.to(device)
        )

    def whole(self) -> TextData:
        """The same with the validation part trained on, too."""
        return replace(self, train=torch.cat([self.train, self.validation]))

    def glance(self, count: int) -> TextData:
        """The same with the first `count` symbols to validate and to test on, and as many as fill up the rows."""
        end = self.rows * math.ceil(count / self.rows) + 1
        return replace(self, validation=self.validation[:end], test=self.test[:end])


@dataclass(frozen=True)
class TextFile:
    """A text in a file of the data folder: the first three quarters train, a twentieth validates, a fifth tests.

    Attributes:
        file: Its place in the folder.
        symbols: Most different symbols that it may have.
        rows: Rows of a batch.
        origin: Where to get it.
    """

    file: str
    symbols: int
    rows: int
    origin: str

    def load(self, folder: Path | None) -> TextData:
        """The text.

        Raises:
            LabError: There is no such file, or it is not that text.
        """
        return _load(self, folder.resolve() if folder is not None else None)

    def whereabouts(self, folder: Path | None) -> str:
        """Whether the file lies in the folder."""
        if folder is None:
            return f"needs a folder with {self.file} (--data-dir or VARIGRAD_DATA)"
        return f"{'at hand' if (folder / self.file).is_file() else 'missing'} in {folder}"


@functools.cache
def _load(source: TextFile, folder: Path | None) -> TextData:
    remedy = f"download {source.origin} as FOLDER/{source.file} and give --data-dir FOLDER or VARIGRAD_DATA"
    if folder is None or not (folder / source.file).is_file():
        raise LabError(f"no {source.file} in {folder or 'any folder (none is given)'}: {remedy}")
    path = folder / source.file
    try:
        text = path.read_bytes().decode("utf-8-sig")  # bytes, so that line ends stay what they are
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"cannot read {path}: {error}; expected a text in UTF-8: {remedy}") from error
    alphabet = "".join(sorted(set(text)))
    shortest = 20 * (source.rows + 1)  # so that no part is shorter than a column
    if len(alphabet) > source.symbols or len(text) < shortest:
        raise LabError(
            f"{path} has {len(text)} symbols, {len(alphabet)} different ones, expected at least {shortest} and at most "
            f"{source.symbols} different ones: {remedy}"
        )
    numbers = {symbol: number for number, symbol in enumerate(alphabet)}
    encoded = torch.tensor([numbers[symbol] for symbol in text])
    first, second = len(text) * 15 // 20, len(text) * 16 // 20
    return TextData(encoded[:first], encoded[first:second], encoded[second:], alphabet, source.rows)


WAR_AND_PEACE = TextFile(
    "war-and-peace/warpeace_input.txt",
    symbols=83,
    rows=50,
    origin="https://cs.stanford.edu/people/karpathy/char-rnn/warpeace_input.txt",
)
