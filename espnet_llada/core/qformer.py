"""Window-level Q-Former: a few learned queries read each third of a second of audio;
and the linear projection from their vectors to the LM's.

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

from espnet_llada.io.schema import Layers, Share, Width
from espnet_llada.networks.bert import EPS, BertLayer
from espnet_llada.networks.compiling import for_any_shape
from espnet_llada.types import UserError

_LARGEST = 1 << 30
"""Weights of a Q-Former; more is a typing error, and would not fit into memory."""

Queries = Annotated[int, Meta(ge=1, le=448)]
Window = Annotated[int, Meta(ge=1, le=1500)]


class WindowReader(nn.Module, ABC):
    """Cuts frames into windows; ``read`` turns each into vectors.

    Args:
        queries: (Q, hidden), the initial queries.
        window: frames from one window to the next.
        drop_last_window: leave out a last window that is not full, as the paper's
            release does; otherwise it is read with its missing frames hidden.

    Attributes:
        hidden: the width of what comes out.
        context: frames on either side that a window reads as well; without any, as in
            the paper, windows do not overlap.
        run: how a layer is run in training: ``read_layer``, or that by torch.compile.
    """

    def __init__(
        self,
        queries: Tensor,
        window: int,
        drop_last_window: bool,
    ):
        super().__init__()
        self.window, self.context, self.hidden = window, 0, queries.shape[1]
        self.drop_last_window = drop_last_window
        self.queries = nn.Parameter(queries)
        self.run = read_layer

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
        keys, seen, windows = self.windows(frames, lengths)
        x, counts = self.read(keys, seen), windows * len(self.queries)
        return x.reshape(len(frames), int(counts.max()), self.hidden), counts

    def windows(
        self, frames: Tensor, lengths: Tensor, early: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and what is there of them (see ``read``), and (B,) windows of each row.

        Args:
            frames, lengths: see ``forward``.
            early: the first window begins so many frames before the audio.
        """
        frames = frames.to(self.queries.dtype)  # a bf16 encoder's, for one
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
        drop_last_window: see ``WindowReader``.

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
        drop_last_window: bool = False,
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
        super().__init__(noise, window, drop_last_window)
        self.norm = nn.LayerNorm(hidden, eps=EPS)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            BertLayer(hidden, input_size, heads, ffn, dropout) for _ in range(layers)
        )

    def read(self, keys: Tensor, seen: Tensor) -> Tensor:
        """See ``WindowReader``."""
        x = self.dropout(self.norm(self.queries)).expand(len(keys), -1, -1)
        return self.through(self.layers, x, keys, seen)


def read_layer(layer: nn.Module, x: Tensor, keys: Tensor, seen: Tensor) -> Tensor:
    """The layer; compiled as a function, code for one fits them all."""
    return layer(x, keys, seen)


class LinearProjection(nn.Linear):
    """One LM vector for each of the adapter's.

    Args:
        width: of the adapter's vectors.
        embedding: (V, d), the LM's.
    """

    def __init__(self, width: int, embedding: Tensor):
        super().__init__(width, embedding.shape[1])
        # The Q-Former's LayerNorm gives unit variance: start the audio at the scale
        # of the LM's own embeddings (torch's default is 5 times SmolLM2's).
        std = float(embedding.float().std()) * width**-0.5
        nn.init.normal_(self.weight, std=std)
        nn.init.zeros_(self.bias)
