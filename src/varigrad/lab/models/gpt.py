"""A small transformer language model."""

from __future__ import annotations

import math

import torch
from torch import nn


class Block(nn.Module):
    """Causal self-attention and a two-layer perceptron, each after a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix over positions, then over channels."""
        rows, length, width = x.shape
        parts = self.queries_keys_values(self.attention_norm(x)).view(rows, length, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind()
        mixed = nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.attended(mixed.transpose(1, 2).reshape(rows, length, width))
        return x + self.perceptron(x)  # type: ignore[no-any-return]


class GPT(nn.Module):
    """A decoder-only transformer with learned positions; the line to the symbols is the embedding's.

    Args:
        symbols: Size of the alphabet.
        context: Most symbols it can look back, itself included.
        width: Channels, a multiple of `heads`.
        heads: Attention heads.
        depth: Blocks.

    Example:
        >>> model = GPT(83, context=64)
        >>> sum(p.numel() for p in model.parameters())
        812160
        >>> model(torch.zeros(2, 64, dtype=torch.int64)).shape
        torch.Size([2, 64, 83])
    """

    ties_output = True

    def __init__(self, symbols: int, context: int, width: int = 128, heads: int = 4, depth: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                deep = name.endswith(("attended.weight", "perceptron.3.weight"))  # they add to the residual stream
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if deep else 0.02)

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        """Scores of the next symbol after each, shaped (rows, length, symbols)."""
        positions = torch.arange(symbols.shape[1], device=symbols.device)
        x = self.blocks(self.embedding(symbols) + self.positions(positions))
        return nn.functional.linear(self.norm(x), self.embedding.weight)
