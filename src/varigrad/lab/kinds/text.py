"""A text whose next symbol is to be predicted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from varigrad.lab.batches import generator
from varigrad.lab.text_data import TextData

JUDGED = 100_000  # symbols of each part that a model is judged by


class TextBatches:
    """Rows of consecutive symbols and their successors.

    Consecutive batches: every row reads the text from a place of its own and goes on, batch by batch, where it
    stopped; behind the last symbol the text begins anew. Otherwise every row is cut out somewhere at random.
    """

    def __init__(self, text: torch.Tensor, rows: int, length: int, seed: int, consecutive: bool) -> None:
        self._text = text
        self._rows = rows
        self._length = length
        self._seed = seed
        self._consecutive = consecutive
        spread = torch.arange(rows) * (len(text) // rows)
        self._first = spread + torch.randint(len(text), (1,), generator=generator(seed, "order", 0))
        self._window = torch.arange(length + 1)

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self._consecutive:
            first = self._first + step * self._length
        else:
            first = torch.randint(len(self._text), (self._rows,), generator=generator(self._seed, "order", step))
        places = (first[:, None] + self._window) % len(self._text)
        symbols = self._text[places.to(self._text.device)]
        return symbols[:, :-1], symbols[:, 1:]


@dataclass(frozen=True)
class NextSymbol:
    """Mean cross-entropy of the next symbol, and how often the most probable one is right.

    Attributes:
        length: Symbols per row of a batch.
        consecutive: Whether a batch goes on where the one before ended; the model then has `forget()`, and its
            buffers are what it remembers.
    """

    length: int
    consecutive: bool

    def batches(self, data: TextData, batch_size: int, seed: int, pad: int) -> TextBatches:
        """Rows of the training part."""
        return TextBatches(data.train, batch_size, self.length, seed, self.consecutive)

    def loss(self, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over all symbols, in nats."""
        return nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    def measure(self, model: nn.Module, data: TextData, part: str) -> tuple[float, float]:
        """The same over the first 100,000 symbols of a part, in the rows and windows of training."""
        text: torch.Tensor = getattr(data, part)[: JUDGED + 1]
        rows = data.rows
        columns = (len(text) - 1) // rows
        inputs, targets = text[:-1][: rows * columns].view(rows, -1), text[1:][: rows * columns].view(rows, -1)
        remembered = [(buffer, buffer.clone()) for buffer in model.buffers()] if self.consecutive else []
        if self.consecutive:
            model.forget()  # type: ignore[operator]
        loss, correct = torch.zeros((), device=text.device), torch.zeros((), device=text.device)
        for start in range(0, columns, self.length):
            window = slice(start, start + self.length)
            scores, truth = model(inputs[:, window]).flatten(0, 1), targets[:, window].flatten()
            loss += nn.functional.cross_entropy(scores, truth, reduction="sum")
            correct += (scores.argmax(1) == truth).sum()
        if self.consecutive:
            for (name, _), (_, before) in zip(list(model.named_buffers()), remembered, strict=True):
                model.get_buffer(name).copy_(before)
        return loss.item() / targets.numel(), correct.item() / targets.numel()
