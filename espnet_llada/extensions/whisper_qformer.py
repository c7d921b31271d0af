"""A window-level Q-Former that is initialised from Whisper's decoder.

BLIP-2's Q-Former is initialised from BERT, with new cross-attention. Whisper's decoder
already attends to Whisper's frames, and each layer has the parts of a Q-Former's:
self-attention, cross-attention, feed-forward. Given one window of frames at a time and
a fixed query in place of the previous tokens, it predicts the word spoken there without
any training: for "he should get home as fast as he could" the
windows of 0.16 s of Whisper tiny.en give "he should get home home as - fast as he could
could".

Source: BLIP-2 (Li et al. 2023, arXiv 2301.12597); Whisper (Radford et al. 2022, arXiv
2212.04356).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from espnet_llada.core.qformer import Queries, Window
from espnet_llada.io import schema, weights
from espnet_llada.networks.encoder import Attention, Block, Projected
from espnet_llada.networks.whisper_file import WhisperConfig, open_whisper
from espnet_llada.networks.windows import WindowLayers, cut_windows
from espnet_llada.types import UserError

_TIMESTAMPS = 1501  # end the vocabulary of every Whisper; <|notimestamps|> before them
_ENGLISH_ONLY = 51864  # tokens of such a Whisper; the others have one more at least
_FIRST_WORD = 2  # position of the token from which the first word is predicted


class WhisperQFormer(nn.Module):
    """Whisper's decoder as the adapter, fine-tuned.

    Args:
        input_size: width of the encoder frames; that of the decoder.
        whisper: name or path of the weights, the encoder's best.
        queries: vectors for each window.
        window: frames from one window to the next.
        time_mask: in training, zero a span of up to so many frames in each 100 (2 s):
            SpecAugment's time masking, on the encoder's frames.
        drop_last_window: leave out a last window that is not full.
        context: additional frames on either side of a window, with a learned position
            embedding.
        jitter: in training, the first window of a batch begins up to ``window`` - 1
            frames before the audio, so that window boundaries vary.
        return_frames: append the frames of a window, without context, to its vector:
            for a ``whisper_scorer``.

    Raises:
        UserError: no such weights, or of another width; ``return_frames`` with
            several queries.
    """

    def __init__(
        self,
        input_size: int,
        whisper: str = "whisper-tiny.en",
        queries: Queries = 1,
        window: Window = 8,
        time_mask: schema.Frames = 0,
        drop_last_window: bool = False,
        context: Annotated[int, Meta(ge=0, le=250)] = 0,
        jitter: bool = False,
        return_frames: bool = False,
    ):
        resolved = weights.resolve(whisper, "whisper")
        config, tensors = read_decoder(resolved.path)
        if config.d_model != input_size:
            raise UserError(
                f"{whisper}: its decoder takes frames of width {config.d_model}, the "
                f"encoder's have {input_size}; name the same Whisper for both"
            )
        words = tensors.pop("token_embedding.weight")
        places = tensors.pop("positional_embedding")
        place = torch.arange(_FIRST_WORD, _FIRST_WORD + queries).clamp(
            max=len(places) - 1
        )
        start = words[special_tokens(len(words))[0][-1]]
        query = start + places[place]
        if return_frames and queries > 1:
            raise UserError(f"return_frames needs one query a window, not {queries}")
        super().__init__()
        self.window, self.drop_last_window = window, drop_last_window
        self.context, self.return_frames = context, return_frames
        self.time_mask, self.jitter = time_mask, jitter
        self.hidden = input_size * (1 + window if return_frames else 1)
        self.queries = nn.Parameter(query)
        self.weights = resolved
        self.blocks = WindowLayers([DecoderBlock(config) for _ in range(config.layers)])
        self.ln = nn.LayerNorm(config.d_model)
        self.load_state_dict({"queries": self.queries.data, **tensors})
        if queries == 1:  # then self-attention has no use for them
            for block in self.blocks:
                block.attn.query = block.attn.key = None
        self.place = None
        if context:
            self.place = nn.Parameter(torch.zeros(window + 2 * context, input_size))

    def compile_layers(self, backend: str = "inductor") -> None:
        """torch.compile the layers in training."""
        self.blocks.compile_layers(backend)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As ``core.qformer.WindowQFormer``; with ``return_frames`` wider.

        Args:
            frames: (B, F, input_size), zero behind a row's end.
            lengths: (B,) int64, frames of each row.

        Returns:
            (B, W * queries, hidden) and (B,) int64, the vectors of each row.
        """
        frames, early = frames.to(self.queries.dtype), 0
        if self.training and self.time_mask:
            frames = _time_masked(frames, lengths, self.time_mask)
        if self.training and self.jitter:
            early = int(torch.randint(self.window, ()))
        sizes = self.window, self.drop_last_window, self.context, early
        keys, seen, windows = cut_windows(frames, lengths, *sizes)
        x, counts = self._read(keys, seen), windows * len(self.queries)
        if self.return_frames:
            own = keys[:, self.context : self.context + self.window]
            x = torch.cat([x, own.flatten(1)[:, None].to(x.dtype)], dim=2)
        return x.reshape(len(frames), int(counts.max()), self.hidden), counts

    def _read(self, keys: Tensor, seen: Tensor) -> Tensor:
        """Each window by itself: (N, queries, input_size)."""
        x = self.queries.expand(len(keys), -1, -1)
        if self.place is not None:
            keys = keys + self.place
        return self.ln(self.blocks(x, keys, seen))


class Frames(nn.Module):
    """No Q-Former: the encoder's frames, for training a ``whisper_scorer`` alone."""

    def __init__(self, input_size: int):
        super().__init__()
        self.hidden = input_size

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The frames, unchanged."""
        return frames, lengths


def read_decoder(path: Path) -> tuple[WhisperConfig, dict[str, Tensor]]:
    """Sizes and tensors of a Whisper's decoder, by OpenAI's names."""
    file = open_whisper(path, "decoder")
    config, width = file.config, file.config.d_model
    with torch.device("meta"):
        shapes = {
            f"blocks.{i}.{name}": tensor.shape
            for i in range(config.layers)
            for name, tensor in DecoderBlock(config).state_dict().items()
        }
    shapes |= {"ln.weight": torch.Size([width]), "ln.bias": torch.Size([width])}
    shapes["positional_embedding"] = torch.Size([config.max_frames, width])
    table = file.rename("token_embedding.weight")
    if table in file.tensors:  # the vocabulary differs between Whispers
        shapes["token_embedding.weight"] = file.tensors[table].shape
    return config, file.read(shapes, torch.float32)


def special_tokens(size: int) -> tuple[list[int], int]:
    """Ids of the start tokens of an English transcript without timestamps, and its end.

    Counted from the end of the vocabulary, as in openai/whisper's ``tokenizer.py``.
    (Vocabularies of tests are too small to have them.)

    Args:
        size: of the vocabulary.
    """
    no_timestamps = size - _TIMESTAMPS - 1
    if size > _ENGLISH_ONLY:
        end = 50257
        start = [end + 1, end + 2, no_timestamps - 4, no_timestamps]
    else:
        end = no_timestamps - 106
        start = [end + 1, no_timestamps]
    return [max(0, token) for token in start], max(0, end)


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


class _CrossAttention(Attention):
    """Cross-attention to a window, computed with few products.

    q (K m) = (K' q) m, and the sum of a V m is V times the sum of a m: projecting the
    queries takes one product for each query and head, projecting the frames one for
    each frame, of which a window has more.
    """

    def __init__(self, config: WhisperConfig):
        super().__init__(config)
        self.key.stays_float = self.value.stays_float = True  # see networks.quantize

    def forward(self, x: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
        heads = (self.heads, -1)
        key = self.key.weight.unflatten(0, heads)  # (H, D, M)
        value = self.value.weight.unflatten(0, heads)
        query = self.query(x).unflatten(-1, heads)  # (N, Q, H, D)
        asked = torch.einsum("nqhd,hdm->nqhm", query, key).flatten(1, 2)
        scores = asked @ memory.transpose(1, 2)
        scores = scores.float() * query.shape[-1] ** -0.5  # (N, Q H, K)
        scores = scores.masked_fill(~seen[:, 0], float("-inf"))
        mixed = scores.softmax(dim=-1).to(asked.dtype) @ memory.to(asked.dtype)
        mixed = mixed.unflatten(1, query.shape[1:3])
        mixed = torch.einsum("nqhm,hdm->nqhd", mixed, value).flatten(2)
        return self.out(mixed + self.value.bias)

    def projected(self, frames: Tensor) -> Projected:
        """Keys and values of an utterance's frames (K, d)."""
        return self._heads(self.key(frames[None])), self._heads(
            self.value(frames[None])
        )

    def along(self, x: Tensor, memory: Sequence[Projected], rows: Tensor) -> Tensor:
        """The same for texts of utterances whose frames are projected already.

        Args:
            x: (N, Q, d).
            memory: of each utterance.
            rows: (N,) int64, the utterance of each text.
        """
        query = self.query(x).unflatten(-1, (self.heads, -1))
        mixed = torch.empty_like(query)
        for row in rows.unique().tolist():
            own = rows == row
            asked = query[own].flatten(0, 1).transpose(0, 1)[None]
            found = F.scaled_dot_product_attention(asked, *memory[row])[0]
            mixed[own] = found.transpose(0, 1).unflatten(0, (-1, x.shape[1]))
        return self.out(mixed.flatten(2))


class DecoderBlock(Block):
    """A decoder layer: cross-attention between the two parts."""

    def __init__(self, config: WhisperConfig):
        super().__init__(config)
        self.cross_attn = _CrossAttention(config)
        self.cross_attn_ln = nn.LayerNorm(config.d_model)

    def forward(
        self, x: Tensor, memory: Tensor, seen: Tensor, causal: bool = False
    ) -> Tensor:
        """Queries (N, Q, d) attend to frames (N, K, d), of which ``seen`` are there.

        ``causal``: a query sees those before it only, as in Whisper.
        """
        x = x + self.attn(self.attn_ln(x), causal)
        x = x + self.cross_attn(self.cross_attn_ln(x), memory, seen)
        return x + self.mlp(self.mlp_ln(x))

    def along(
        self,
        x: Tensor,
        memory: Sequence[Projected],
        rows: Tensor,
        past: Projected,
        seen: Tensor,
    ) -> tuple[Tensor, Projected]:
        """Likewise, with several texts of an utterance, behind what was run of them.

        Args:
            x, memory, rows: see ``_CrossAttention.along``.
            past, seen: see ``Attention.behind``.
        """
        attended, own = self.attn.behind(self.attn_ln(x), past, seen)
        x = x + attended
        x = x + self.cross_attn.along(self.cross_attn_ln(x), memory, rows)
        return x + self.mlp(self.mlp_ln(x)), own
