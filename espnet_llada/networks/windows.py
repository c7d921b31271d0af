"""Frames cut into windows, and BERT's layers, which read each window by itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cut_windows(
    frames: Tensor,
    lengths: Tensor,
    window: int,
    drop_last: bool = False,
    context: int = 0,
    early: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a batch into windows, so that a row's padding is never seen by its speech.

    Args:
        frames: (B, F, d), zero behind a row's end.
        lengths: (B,) int64, frames of each row.
        window: frames from one window to the next.
        drop_last: leave out a last window that is not full.
        context: frames on either side that a window has as well.
        early: the first window begins so many frames before the audio.

    Returns:
        Keys (N, K, d) of all windows, K = window + 2 context; (N, 1, 1, K) bool, False
        for a frame that is not there; and (B,) int64, windows of each row. Rows have
        as many windows as the longest.
    """
    ends = lengths + early
    windows = ends // window if drop_last else -(-ends // window)
    batch, count = len(frames), int(windows.max())
    width, reach = count * window, window + 2 * context
    before = context + early
    behind = max(0, width - early - frames.shape[1]) + context
    frames = F.pad(frames, (0, 0, before, behind))
    places = torch.arange(frames.shape[1], device=frames.device) - before
    there = (places >= 0) & (places < lengths[:, None])
    keys = frames[:, : width + 2 * context].unfold(1, reach, window)
    keys = keys.transpose(2, 3).reshape(batch * count, reach, -1)
    seen = there[:, : width + 2 * context].unfold(1, reach, window)
    seen = seen.reshape(batch * count, 1, 1, reach)
    # A window behind the row's end has nothing to see; its output is not used, but
    # softmax over nothing would be NaN.
    return keys, seen | ~seen.any(dim=-1, keepdim=True), windows


class WindowLayers(nn.ModuleList):
    """Layers that read windows one after the other.

    Attributes:
        run: how a layer is run in training: ``read_layer``, or that by torch.compile.
    """

    def __init__(self, layers: list[nn.Module]):
        super().__init__(layers)
        self.run = read_layer

    def compile_layers(self, backend: str = "inductor") -> None:
        """Have training run them by torch.compile, for batches of any shape."""
        from espnet_llada.networks.compiling import for_any_shape

        self.run = for_any_shape(read_layer, backend)

    def forward(self, x: Tensor, keys: Tensor, seen: Tensor) -> Tensor:
        """Queries (N, Q, d) through all layers; see ``cut_windows``."""
        run = self.run if self.training else read_layer
        for layer in self:
            x = run(layer, x, keys, seen)
        return x


def read_layer(layer: nn.Module, x: Tensor, keys: Tensor, seen: Tensor) -> Tensor:
    """The layer; compiled as a function, code for one fits them all."""
    return layer(x, keys, seen)


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
