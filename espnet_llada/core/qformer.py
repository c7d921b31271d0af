"""Window-level Q-Former: a few learned queries read each third of a second of audio.

The network is BERT's (post-LayerNorm, GELU) with cross-attention in every layer, as
in BLIP-2 and SALMONN; the paper uses 2 layers of BERT-base shape and 4 queries for a
window of 17 encoder frames (0.34 s).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from espnet_llada.io import schema
from espnet_llada.io.schema import Layers, Share, Width
from espnet_llada.networks.compiling import for_any_shape
from espnet_llada.types import UserError

_EPS = 1e-12  # BERT's LayerNorm
_LARGEST = 1 << 30
"""Weights of a Q-Former; more is a typing error, and would not fit into memory."""

Queries = Annotated[int, Meta(ge=1, le=448)]
Window = Annotated[int, Meta(ge=1, le=1500)]


class Frames(nn.Module):
    """No Q-Former: the encoder's frames, for training a ``text_qformer`` alone."""

    def __init__(self, input_size: int):
        super().__init__()
        self.hidden = input_size

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What it is given, see ``WindowReader``."""
        return frames, lengths


class WindowReader(nn.Module, ABC):
    """Cuts frames into windows; ``read`` turns each into vectors.

    Args:
        queries: (Q, hidden), the initial queries.
        window: frames from one window to the next.
        time_mask: in training, zero a span of up to so many frames in each 100 (2 s):
            SpecAugment's time masking, on the encoder's frames.
        drop_last_window: leave out a last window that is not full, as the paper's
            release does; otherwise it is read with its missing frames hidden.
        context: frames on either side that a window reads as well; without any, as in
            the paper, windows do not overlap.
        jitter: in training, the first window of a batch begins up to ``window`` - 1
            frames before the audio, so that the same speech is cut elsewhere each time.
        hand_on: behind the vector of a window its own frames, one after the other;
            without its context, so that together they are the audio.

    Attributes:
        hidden: the width of what comes out.
        run: how a layer is run in training: ``read_layer``, or that by torch.compile.
    """

    def __init__(
        self,
        queries: Tensor,
        window: int,
        time_mask: int,
        drop_last_window: bool,
        context: int = 0,
        jitter: bool = False,
        hand_on: bool = False,
    ):
        super().__init__()
        self.window, self.context, self.hand_on = window, context, hand_on
        self.hidden = queries.shape[1] * (1 + window if hand_on else 1)
        self.time_mask, self.drop_last_window = time_mask, drop_last_window
        self.queries = nn.Parameter(queries)
        self.jitter, self.run = jitter, read_layer

    def compile_layers(self, backend: str = "inductor") -> None:
        """Have training run the layers by torch.compile, for batches of any shape."""
        self.run = for_any_shape(read_layer, backend)

    def through(self, layers: nn.ModuleList, x: Tensor, *memory: Tensor) -> Tensor:
        """``x`` through layers that all see the same keys; see ``read``."""
        run = self.run if self.training else read_layer
        for layer in layers:
            x = run(layer, x, *memory)
        return x

    @abstractmethod
    def read(self, keys: Tensor, seen: Tensor) -> Tensor:
        """Each window by itself.

        Args:
            keys: (N, K, input_size), K = window + 2 context.
            seen: (N, 1, 1, K) bool, False for a frame that is not there.

        Returns:
            (N, queries, hidden).
        """

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Read a batch.

        Windows are read one by one, so a row's padding is never seen by its speech.

        Args:
            frames: (B, F, input_size), zero behind a row's end.
            lengths: (B,) int64, frames of each row.

        Returns:
            (B, W * queries, hidden) and (B,) int64, the vectors of each row.
        """
        frames = frames.to(self.queries.dtype)  # a bf16 encoder's, for one
        if self.training and self.time_mask:
            frames = _time_masked(frames, lengths, self.time_mask)
        early = 0
        if self.training and self.jitter:
            early = int(torch.randint(self.window, ()))
        keys, seen, windows = self._windows(frames, lengths, early)
        x, counts = self.read(keys, seen), windows * len(self.queries)
        if self.hand_on:
            own = keys[:, self.context : self.context + self.window]
            x = torch.cat([x, own.flatten(1)[:, None].to(x.dtype)], dim=2)
        return x.reshape(len(frames), int(counts.max()), self.hidden), counts

    def _windows(
        self, frames: Tensor, lengths: Tensor, early: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and what is there of them (see ``read``), and (B,) windows of each row.

        The first window begins ``early`` frames before the audio.
        """
        if self.drop_last_window:
            windows = (lengths + early) // self.window
        else:
            windows = -(-(lengths + early) // self.window)
        batch, count = len(frames), int(windows.max())
        width = count * self.window
        reach = self.window + 2 * self.context
        before = self.context + early
        behind = max(0, width - early - frames.shape[1]) + self.context
        frames = F.pad(frames, (0, 0, before, behind))
        places = torch.arange(frames.shape[1], device=frames.device) - before
        there = (places >= 0) & (places < lengths[:, None])
        keys = frames[:, : width + 2 * self.context].unfold(1, reach, self.window)
        keys = keys.transpose(2, 3).reshape(batch * count, reach, -1)
        seen = there[:, : width + 2 * self.context].unfold(1, reach, self.window)
        seen = seen.reshape(batch * count, 1, 1, reach)
        # A window behind the row's end has nothing to see; its output is not used,
        # but softmax over nothing would be NaN.
        return keys, seen | ~seen.any(dim=-1, keepdim=True), windows


class WindowQFormer(WindowReader):
    """BERT's layers with cross-attention: the paper's adapter, trained from scratch.

    Args:
        input_size: width of the encoder frames.
        hidden: width of the queries.
        layers: number of layers.
        heads: attention heads; divides ``hidden``.
        ffn: inner width of the feed-forward part.
        queries: vectors for each window.
        window: see ``WindowReader``.
        dropout: as in BERT, on embeddings, attention and residual branches.
        time_mask, drop_last_window, jitter: see ``WindowReader``.

    Raises:
        UserError: heads that do not divide ``hidden``, or too many weights.
    """

    def __init__(
        self,
        input_size: int,
        hidden: Width = 768,
        layers: Layers = 2,
        heads: Layers = 12,
        ffn: Width = 3072,
        queries: Queries = 4,
        window: Window = 17,
        dropout: Share = 0.1,
        time_mask: schema.Frames = 0,
        drop_last_window: bool = False,
        jitter: bool = False,
    ):
        if hidden % heads:
            raise UserError(f"heads: {heads} does not divide hidden {hidden}")
        numbers = layers * hidden * (6 * hidden + 2 * input_size + 2 * ffn)
        if numbers > _LARGEST:
            raise UserError(
                f"layers {layers}, hidden {hidden} and ffn {ffn} are {numbers:.1e} "
                "weights; make them smaller"
            )
        noise = torch.randn(queries, hidden) * 0.02
        super().__init__(noise, window, time_mask, drop_last_window, jitter=jitter)
        self.norm = nn.LayerNorm(hidden, eps=_EPS)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            _Layer(hidden, input_size, heads, ffn, dropout) for _ in range(layers)
        )

    def read(self, keys: Tensor, seen: Tensor) -> Tensor:
        """See ``WindowReader``."""
        x = self.dropout(self.norm(self.queries)).expand(len(keys), -1, -1)
        return self.through(self.layers, x, keys, seen)


def read_layer(layer: nn.Module, x: Tensor, keys: Tensor, seen: Tensor) -> Tensor:
    """The layer; compiled as a function, code for one fits them all."""
    return layer(x, keys, seen)


def _time_masked(frames: Tensor, lengths: Tensor, longest: int) -> Tensor:
    """(B, F, d) with a span of 0 to ``longest`` zero frames for each 100 of a row."""
    spans = frames.shape[1] // 100 + 1
    numbers = torch.arange(spans, device=frames.device)
    draw = torch.rand(2, len(frames), spans, device=frames.device)
    width = (draw[0] * (longest + 1)).floor() * (numbers <= lengths[:, None] // 100)
    start = (draw[1] * (lengths[:, None] - width + 1).clamp(min=0)).floor()
    places = torch.arange(frames.shape[1], device=frames.device)[:, None]
    hidden = (places >= start[:, None]) & (places < (start + width)[:, None])
    return frames.masked_fill(hidden.any(dim=-1, keepdim=True), 0.0)


class _Layer(nn.Module):
    def __init__(self, hidden: int, memory: int, heads: int, ffn: int, dropout: float):
        super().__init__()
        self.self_attention = _Attention(hidden, hidden, heads, dropout)
        self.cross_attention = _Attention(hidden, memory, heads, dropout)
        self.ffn_in = nn.Linear(hidden, ffn)
        self.ffn_out = nn.Linear(ffn, hidden)
        self.ffn_norm = nn.LayerNorm(hidden, eps=_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
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
        self.norm = nn.LayerNorm(hidden, eps=_EPS)
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
