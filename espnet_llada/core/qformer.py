"""Window-level Q-Former, and the linear projection to the LM's embedding space.

The network is BERT's (post-LayerNorm, GELU) with cross-attention in every layer, as
in BLIP-2 and SALMONN; the paper uses 2 layers of BERT-base shape and 4 queries for a
window of 17 encoder frames (0.34 s).
"""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from espnet_llada.io.schema import Layers, Share, Width
from espnet_llada.networks.windows import EPS, BertLayer, WindowLayers, cut_windows
from espnet_llada.types import UserError

_LARGEST = 1 << 30
"""Weights of a Q-Former; a config with more is taken for a typing error."""

Queries = Annotated[int, Meta(ge=1, le=448)]
Window = Annotated[int, Meta(ge=1, le=1500)]


class WindowQFormer(nn.Module):
    """The paper's adapter, trained from scratch.

    Args:
        input_size: width of the encoder frames.
        hidden: width of the queries and of the output.
        layers: number of layers.
        heads: attention heads; divides ``hidden``.
        ffn: inner width of the feed-forward layers.
        queries: vectors for each window.
        window: frames; windows do not overlap.
        dropout: as in BERT, on embeddings, attention and residual branches.
        drop_last_window: drop an incomplete last window, as the paper's release does;
            otherwise its missing frames are masked.

    Raises:
        UserError: ``heads`` does not divide ``hidden``, or too many weights.
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
        drop_last_window: bool = False,
    ):
        super().__init__()
        if hidden % heads:
            raise UserError(f"heads: {heads} does not divide hidden {hidden}")
        numbers = layers * hidden * (6 * hidden + 2 * input_size + 2 * ffn)
        if numbers > _LARGEST:
            raise UserError(
                f"layers {layers}, hidden {hidden} and ffn {ffn} are {numbers:.1e} "
                "weights; make them smaller"
            )
        self.hidden, self.window = hidden, window
        self.drop_last_window = drop_last_window
        self.queries = nn.Parameter(torch.randn(queries, hidden) * 0.02)
        self.norm = nn.LayerNorm(hidden, eps=EPS)
        self.dropout = nn.Dropout(dropout)
        sizes = hidden, input_size, heads, ffn, dropout
        self.layers = WindowLayers([BertLayer(*sizes) for _ in range(layers)])

    def compile_layers(self, backend: str = "inductor") -> None:
        """torch.compile the layers in training."""
        self.layers.compile_layers(backend)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames of a batch to audio vectors.

        Args:
            frames: (B, F, input_size), zero behind a row's end.
            lengths: (B,) int64, frames of each row.

        Returns:
            (B, W * queries, hidden) and (B,) int64, the vectors of each row.
        """
        frames = frames.to(self.queries.dtype)  # a bf16 encoder's, for one
        cut = cut_windows(frames, lengths, self.window, self.drop_last_window)
        keys, seen, windows = cut
        x = self.dropout(self.norm(self.queries)).expand(len(keys), -1, -1)
        x, counts = self.layers(x, keys, seen), windows * len(self.queries)
        return x.reshape(len(frames), int(counts.max()), self.hidden), counts


class LinearProjection(nn.Linear):
    """From the adapter's vectors to the LM's embedding space.

    Args:
        width: width of the adapter's vectors.
        embedding: (V, d), the LM's embedding table.
    """

    def __init__(self, width: int, embedding: Tensor):
        super().__init__(width, embedding.shape[1])
        # The Q-Former's LayerNorm gives unit variance: start the audio at the scale
        # of the LM's own embeddings (torch's default is 5 times SmolLM2's).
        std = float(embedding.float().std()) * width**-0.5
        nn.init.normal_(self.weight, std=std)
        nn.init.zeros_(self.bias)
