"""BERT's layer (post-LayerNorm, GELU) with cross-attention, as a Q-Former has it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-12
"""Of BERT's LayerNorm."""


class BertLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward.

    Args:
        hidden: width of the queries.
        memory: width of what they read.
        heads: of both attentions; divides ``hidden``.
        ffn: inner width of the feed-forward part.
        dropout: on attention and residual branches.
    """

    def __init__(self, hidden: int, memory: int, heads: int, ffn: int, dropout: float):
        super().__init__()
        self.self_attention = _Attention(hidden, hidden, heads, dropout)
        self.cross_attention = _Attention(hidden, memory, heads, dropout)
        self.ffn_in = nn.Linear(hidden, ffn)
        self.ffn_out = nn.Linear(ffn, hidden)
        self.ffn_norm = nn.LayerNorm(hidden, eps=EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
        """(N, Q, hidden), (N, K, memory), (N, 1, 1, K) bool -> (N, Q, hidden)."""
        x = self.self_attention(x, x, None)
        x = self.cross_attention(x, memory, seen)
        inner = self.ffn_out(F.gelu(self.ffn_in(x)))
        return self.ffn_norm(x + self.dropout(inner))


class _Attention(nn.Module):
    """Multi-head attention, residual and LayerNorm behind it (BERT's order)."""

    def __init__(self, hidden: int, memory: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.p = heads, dropout
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(memory, hidden)
        self.value = nn.Linear(memory, hidden)
        self.output = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, seen: Tensor | None) -> Tensor:
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in (self.query(x), self.key(memory), self.value(memory))
        )
        p = self.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=p)
        mixed = self.output(mixed.transpose(1, 2).flatten(-2))
        return self.norm(x + self.dropout(mixed))
