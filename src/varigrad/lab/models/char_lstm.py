"""A recurrent language model that remembers across batches."""

from __future__ import annotations

import torch
from torch import nn


class CharLSTM(nn.Module):
    """Embedding, a stack of LSTM layers and a line to the next symbol (P4 of "Dissecting Adam").

    Batches of a text follow one another: row b of a batch goes on where row b of the one before ended, so the
    network starts a batch from the state it ended the last one with, without its gradient. `forget()` starts afresh.
    The state lies in buffers: a saved model goes on where it was.

    Args:
        symbols: Size of the alphabet, at least 1.
        rows: Rows of a batch, at least 1.
        width: Size of the embedding and of every layer's state.
        layers: LSTM layers.
        dropout: Share of every layer's inputs and outputs set to 0 while training, in [0, 1).

    Example:
        >>> model = CharLSTM(83, rows=50)
        >>> sum(p.numel() for p in model.parameters())
        285523
        >>> model(torch.zeros(50, 7, dtype=torch.int64)).shape
        torch.Size([50, 7, 83])
    """

    hidden: torch.Tensor
    cell: torch.Tensor

    def __init__(self, symbols: int, rows: int, width: int = 128, layers: int = 2, dropout: float = 0.2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True, dropout=dropout)
        self.line = nn.Linear(width, symbols)
        self.register_buffer("hidden", torch.zeros(layers, rows, width))
        self.register_buffer("cell", torch.zeros(layers, rows, width))

    def forget(self) -> None:
        """Start the next batch from a state of zeros."""
        self.hidden.zero_()
        self.cell.zero_()

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        """Scores of the next symbol after each, shaped (rows, length, symbols)."""
        output, (hidden, cell) = self.lstm(self.dropout(self.embedding(symbols)), (self.hidden, self.cell))
        # Under autocast they come in bfloat16, which the next batch could not be started from.
        self.hidden, self.cell = hidden.detach().to(self.hidden), cell.detach().to(self.cell)
        return self.line(self.dropout(output))  # type: ignore[no-any-return]
