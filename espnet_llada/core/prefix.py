"""What stands before the response: prompt and audio, and how they are numbered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_llada.core.audio_embeddings import AudioEmbeddings
from espnet_llada.networks.lm.backbone import Backbone, counted
from espnet_llada.networks.lm.cache import KVCache

AUDIO_POSITIONS = ("before", "beside")


@dataclass(frozen=True)
class Draft:
    """What the adapter hears, or was given to read along, for each row of a batch.

    Attributes:
        ids: token ids.
        log_probs: how sure each token is, natural logarithms.
    """

    ids: Sequence[Sequence[int]]
    log_probs: list[list[float]]

    def doubted(self, other: Draft) -> Draft:
        """The same, each token as sure as the less sure of the two says."""
        rows = zip(self.log_probs, other.log_probs, strict=True)
        return Draft(self.ids, [[*map(min, *pair)] for pair in rows])


@dataclass(frozen=True)
class Prefix:
    """Prompt and audio of a batch.

    Attributes:
        embeds: (B, P, d).
        valid: (B, P) bool; False behind the audio of a shorter row.
        positions: (B, P) int64, for the rotary embedding; by default counted.
        start: (B,) int64, the position of the response's first token; by default the
            one behind the last of the prefix.
        heard: the audio; None where there is none.
        begins: the position of the first audio vector.
        cache: what the LM has made of it, where that does not depend on the response.
        hidden: (B, P, d), hidden states, with the cache.
    """

    embeds: Tensor
    valid: Tensor
    positions: Tensor | None = None
    start: Tensor | None = None
    heard: AudioEmbeddings | None = None
    begins: int = 0
    cache: KVCache | None = None
    hidden: Tensor | None = None

    def __post_init__(self) -> None:
        if self.positions is None:
            object.__setattr__(self, "positions", counted(self.valid))
        if self.start is None:
            object.__setattr__(self, "start", self.valid.sum(dim=1))

    def rows(self, chosen: Tensor) -> Prefix:
        """Some of the rows: (N,) int64; without the padding that only others need."""
        columns = self.valid[chosen].any(dim=0)
        return Prefix(
            self.embeds[chosen][:, columns],
            self.valid[chosen][:, columns],
            self.positions[chosen][:, columns],
            self.start[chosen],
            None if self.heard is None else self.heard.rows(chosen),
            self.begins,
            None if self.cache is None else self.cache.chosen(chosen, columns),
            None if self.hidden is None else self.hidden[chosen][:, columns],
        )

    def remembered(self, lm: Backbone) -> Prefix:
        """The same with a cache: the LM has seen it, and is to see it no more."""
        cache = KVCache()
        hidden = lm(self.embeds, self.valid, cache, self.positions)
        return replace(self, cache=cache, hidden=hidden)

    def __len__(self) -> int:
        return len(self.embeds)


def join(
    lm: Backbone,
    prompt: Tensor,
    heard: AudioEmbeddings,
    where: str,
) -> Prefix:
    """Prompt and audio, joined.

    ``before`` is the paper's order: prompt, audio, response, numbered one after the
    other. ``beside`` is for audio that already reads like the response, a vector for
    each word that was heard: it is numbered from the response's first position on, so
    that the i-th word has the position of the i-th token (``heard.places``), and
    finding what to copy takes no counting. It stands in front of the prompt, where a
    causal LM sees it from its first token on.

    Args:
        lm: for its precision.
        prompt: (B, P, d).
        heard: the audio.
        where: one of ``AUDIO_POSITIONS``.
    """
    audio, there, asked = heard.vectors, heard.valid, prompt.shape[1]
    if where == "before":
        valid = F.pad(there, (asked, 0), value=True)
        joined = lm.join(prompt, audio)
        return Prefix(joined, valid, heard=heard, begins=asked)
    valid = F.pad(there, (0, asked), value=True)
    first = torch.arange(asked, device=audio.device).expand(len(audio), -1)
    return Prefix(
        lm.join(audio, prompt.to(audio.dtype)),
        valid,
        torch.cat([asked + heard.places, first], dim=1),
        torch.full_like(heard.counts, asked),
        heard,
    )
