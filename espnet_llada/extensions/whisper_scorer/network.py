"""WhisperScorer: Whisper's decoder with adapters, teacher-forced along a text.

A window-level Q-Former sees a third of a second and no text. The scorer attends to all
of the audio and to a text: the CTC draft or, in deliberation, the first pass. It is
Whisper's decoder, frozen but for small adapters, which predicts the next token behind
each token of the text in one parallel pass. It is conditioned on the text's errors too;
the LM decides which of the predictions to trust.

Imports ``extensions.whisper_qformer``, which loads the decoder of a Whisper, and
``extensions.posterior_prefix.alignment``.

Source: a Q-Former that attends to text next to its queries is InstructBLIP's (arXiv
2305.06500); attention to both audio and first pass is that of deliberation networks
(Hu et al. 2020, arXiv 2003.07962); the adapters are those of Houlsby et al. 2019
(arXiv 1902.00751).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from espnet_llada.extensions.posterior_prefix.alignment import spoken
from espnet_llada.extensions.whisper_qformer import (
    DecoderBlock,
    Projected,
    read_decoder,
    special_tokens,
)
from espnet_llada.io import weights
from espnet_llada.io.schema import Share, Weight
from espnet_llada.networks.frozen import Pretrained, scores
from espnet_llada.networks.whisper_file import WhisperConfig


@dataclass(frozen=True)
class Options:
    """``decoder_conf.whisper_scorer``."""

    bottleneck: Annotated[
        int,
        Meta(ge=0, le=4096, description="inner width of its adapters; 0 trains none"),
    ] = 64
    weight: Annotated[
        Weight, Meta(description="of its loss (nats for each token), added to the LM's")
    ] = 1.0
    first_pass: Annotated[
        Share,
        Meta(
            description="share of a training's utterances in which it follows a first "
            "pass, and not the CTC's draft"
        ),
    ] = 0.0
    only: Annotated[
        bool, Meta(description="train by this loss alone, along simulated ASR errors")
    ] = False


class WhisperScorer(Pretrained):
    """Whisper's decoder, teacher-forced along a text of an utterance.

    Args:
        config: sizes of the decoder.
        tensors: its weights by OpenAI's names; not trained.
        options: see ``Options``.
    """

    def __init__(
        self,
        config: WhisperConfig,
        tensors: dict[str, Tensor],
        options: Options | None = None,
    ):
        super().__init__()
        options = options or Options()
        self.weight, self.first_pass = options.weight, options.first_pass
        self.only, bottleneck = options.only, options.bottleneck
        tensors = dict(tensors)
        table = tensors.pop("token_embedding.weight")
        places = tensors.pop("positional_embedding")
        start, end = special_tokens(len(table))
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.ln = nn.LayerNorm(config.d_model)
        self.load_state_dict(tensors)
        self.start = nn.Parameter(table[start])
        self.end = nn.Parameter(table[end])
        self.places = nn.Parameter(places)
        self.requires_grad_(False)
        sizes = config.d_model, bottleneck
        small = [
            _Bottleneck(*sizes) if bottleneck else nn.Identity() for _ in self.blocks
        ]
        self.bottlenecks = nn.ModuleList(small)

    @classmethod
    def from_pretrained(cls, whisper: str, options: Options) -> WhisperScorer:
        """Load the decoder of a Whisper by name or path."""
        return cls(*read_decoder(weights.resolve(whisper, "whisper").path), options)

    @property
    def longest(self) -> int:
        """Maximum tokens of a text; later ones are not scored."""
        return len(self.places) - len(self.start)

    def forward(
        self,
        frames: Tensor,
        transcripts: Sequence[Sequence[int]],
        words: Tensor,
        eos: int,
    ) -> tuple[Tensor, Tensor]:
        """Next-token log-probabilities along transcripts.

        Args:
            frames: (B, F, d_model) of the encoder; all-zero frames are padding.
            transcripts: B rows of token ids.
            words: (V, d_model), Whisper's embedding of each token.
            eos: id of the token that stands for the end.

        Returns:
            (B, T + 1, V) float32 log-probabilities, the i-th of the i-th token given
            those before it, the last of the token after the transcript; and (B,) int64,
            how many of them each row has.
        """
        x, counts = self._begin(transcripts, words)
        frames = frames.to(x.dtype)
        seen = _there(frames)[:, None, None]
        for block, small in zip(self.blocks, self.bottlenecks, strict=True):
            x = small(block(x, frames, seen, causal=True))
        hidden = x[:, len(self.start) - 1 :]
        # One product for the whole batch; with rows of their own there is one for each.
        found = self._next(hidden.flatten(0, 1), words, eos)
        return found.unflatten(0, hidden.shape[:2]), counts

    def projected(self, frames: Tensor) -> list[list[Projected]]:
        """Cross-attention keys and values of each utterance's frames, by layer.

        Args:
            frames: (U, F, d_model), see ``forward``.
        """
        frames = frames.to(self.start.dtype)
        rows = [row[own] for row, own in zip(frames, _there(frames), strict=True)]
        return [[b.cross_attn.projected(row) for row in rows] for b in self.blocks]

    def along(
        self,
        memory: Sequence[Sequence[Projected]],
        rows: Tensor,
        texts: Sequence[Sequence[int]],
        words: Tensor,
        eos: int,
        pasts: Sequence[Tensor] | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As ``forward``, for any number of texts of each utterance.

        Args:
            memory: of U utterances, by ``projected``.
            rows: (N,) int64, the utterance of each text.
            texts: N rows of token ids, all of which are scored.
            words, eos: see ``forward``.
            pasts: for each text the keys and values (P, layers, 2, H, D) of the tokens
                before it, from earlier calls; by default none.

        Returns:
            N tensors of log-probabilities, (T + 1, V), or (T, V) behind a past; and N
            of keys and values, (S + T, layers, 2, H, D) with the S start tokens, or
            (T, layers, 2, H, D).
        """
        begin = self.start
        if pasts is None:
            heads = self.blocks[0].attn.heads
            shape = 0, len(self.blocks), 2, heads, begin.shape[1] // heads
            pasts = [begin.new_zeros(shape)] * len(texts)
        else:
            begin = begin[:0]
        x, past, seen = self._behind(begin, texts, words, pasts)
        layers, kept = zip(self.blocks, self.bottlenecks, memory, strict=True), []
        for layer, (block, small, projected) in enumerate(layers):
            before = past[:, :, layer].permute(2, 0, 3, 1, 4)
            x, own = block.along(x, projected, rows, (before[0], before[1]), seen)
            x = small(x)
            kept.append(torch.stack(own).permute(1, 3, 0, 2, 4))
        sizes = [len(begin) + len(text) for text in texts]
        first = max(0, len(begin) - 1)
        asked = [row[first:size] for row, size in zip(x, sizes, strict=True)]
        found = self._next(torch.cat(asked), words, eos)
        keys = torch.stack(kept, dim=2)
        return list(found.split([len(row) for row in asked])), [
            row[:size] for row, size in zip(keys, sizes, strict=True)
        ]

    def _behind(
        self,
        begin: Tensor,
        texts: Sequence[Sequence[int]],
        words: Tensor,
        pasts: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (N, L, d), padded pasts, and the attention mask."""
        device = words.device
        ids = [torch.tensor(text, dtype=torch.long) for text in texts]
        text = F.embedding(pad_sequence(ids, batch_first=True).to(device), words)
        start = begin.expand(len(ids), -1, -1)
        x = torch.cat([start, text.to(start.dtype)], dim=1)
        past = pad_sequence(list(pasts), batch_first=True)
        sizes = torch.tensor([len(p) for p in pasts], device=device)[:, None]
        own = torch.arange(x.shape[1], device=device)
        # Rows that have ended have places beyond the last one.
        places = (sizes + own).clamp(max=len(self.places) - 1)
        before = torch.arange(past.shape[1], device=device) < sizes
        causal = (own <= own[:, None]).expand(len(ids), -1, -1)
        before = before[:, None].expand(-1, len(own), -1)
        seen = torch.cat([before, causal], dim=2)[:, None]
        return x + self.places[places], past, seen

    def _begin(
        self, transcripts: Sequence[Sequence[int]], words: Tensor
    ) -> tuple[Tensor, Tensor]:
        device = words.device
        ids = [torch.tensor(t[: self.longest], dtype=torch.long) for t in transcripts]
        counts = torch.tensor([len(row) + 1 for row in ids], device=device)
        text = F.embedding(pad_sequence(ids, batch_first=True).to(device), words)
        start = self.start.expand(len(ids), -1, -1)
        x = torch.cat([start, text.to(start.dtype)], dim=1)
        return x + self.places[: x.shape[1]], counts

    def _next(self, x: Tensor, words: Tensor, eos: int) -> Tensor:
        hidden = self.ln(x)
        logits = scores(hidden, words.to(hidden.dtype)).float()
        logits[:, eos] = (hidden @ self.end.to(hidden.dtype)).float()
        return logits.log_softmax(dim=-1)

    def loss(
        self,
        log_probs: Tensor,
        transcripts: Sequence[Sequence[int]],
        text: Tensor,
        lengths: Tensor,
        eos: int,
    ) -> Tensor:
        """(B,), nats per token, of the reference's next tokens.

        The text is aligned with the transcript by edit distance, see ``spoken``.

        Args:
            log_probs: (B, T + 1, V), from ``forward`` for the transcripts.
            transcripts: B rows of token ids.
            text: (B, U) int64, the reference.
            lengths: (B,) int64.
            eos: id of the token that stands for the end.
        """
        rows = []
        said = zip(text.tolist(), lengths.tolist(), transcripts, strict=True)
        for log_prob, (row, size, transcript) in zip(log_probs, said, strict=True):
            target, transcript = [*row[:size], eos], transcript[: self.longest]
            following = [target[n] for n in spoken(transcript, target[:-1])]
            following = torch.tensor(following, device=log_prob.device)
            own = log_prob[: len(following)].gather(1, following[:, None])
            rows.append(-own.mean())
        return torch.stack(rows)


def _there(frames: Tensor) -> Tensor:
    """(U, F) bool: frames that are not all zero; if all are, all of them."""
    seen = (frames != 0).any(dim=-1)
    return seen | ~seen.any(dim=-1, keepdim=True)


class _Bottleneck(nn.Module):
    """Bottleneck adapter with a residual connection; the identity at first."""

    guest = True  # in a checkpoint, though the network around it is not

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(F.gelu(self.down(self.norm(x))))
