"""The audio part of a posterior prefix: one vector for each token of the audio."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AudioEmbeddings:
    """The audio of a batch as LM inputs.

    Attributes:
        vectors: (B, A, d).
        counts: (B,) int64, vectors of each row.
        tokens: (B, A, K) int64, the most probable tokens of each vector.
        shares: (B, A, K), their weights in the vector; the sum is at most 1.
        first: (B, A K) int64, index of the first occurrence of each token in its row.
        places: (B, A) int64, the position of each vector, from 0. A vector whose tokens
            have half of its weight or less has the position of the one before.
    """

    vectors: Tensor
    counts: Tensor
    tokens: Tensor
    shares: Tensor
    first: Tensor | None = None
    places: Tensor | None = None

    def __post_init__(self) -> None:
        if self.first is None:
            first = first_places(self.tokens.flatten(1))
            object.__setattr__(self, "first", first)
        if self.places is None:
            words = (self.shares.sum(dim=2) > 0.5).long()
            counted = (words.cumsum(dim=1) - 1).clamp(min=0)
            object.__setattr__(self, "places", counted)

    @property
    def valid(self) -> Tensor:
        """(B, A) bool: False behind the vectors of a row."""
        places = torch.arange(self.vectors.shape[1], device=self.counts.device)
        return places < self.counts[:, None]

    @property
    def words(self) -> Tensor:
        """(B,) int64: estimated tokens of each row, the highest position plus 1."""
        if not self.places.shape[1]:
            return torch.zeros_like(self.counts)
        return (self.places + 1).masked_fill(~self.valid, 0).amax(dim=1)

    def with_more(self, more: AudioEmbeddings) -> AudioEmbeddings:
        """Append other vectors to those of each row."""
        valid = torch.cat([self.valid, more.valid], dim=1)
        counts = self.counts + more.counts
        order = (~valid).byte().argsort(dim=1, stable=True)[:, : int(counts.max())]
        rows = torch.arange(len(counts), device=counts.device)[:, None]

        def joined(first: Tensor, second: Tensor) -> Tensor:
            return torch.cat([first, second.to(first.dtype)], dim=1)[rows, order]

        return AudioEmbeddings(
            joined(self.vectors, more.vectors),
            counts,
            joined(self.tokens, more.tokens),
            joined(self.shares, more.shares),
            places=joined(self.places, more.places),
        )

    def rows(self, chosen: Tensor) -> AudioEmbeddings:
        """Some of the rows, (N,) int64, trimmed to their longest."""
        counts = self.counts[chosen]
        width = int(counts.max()) if len(chosen) else 0
        kept = width * self.tokens.shape[2]
        return AudioEmbeddings(
            self.vectors[chosen, :width],
            counts,
            self.tokens[chosen, :width],
            self.shares[chosen, :width],
            self.first[chosen, :kept],
            self.places[chosen, :width],
        )


def first_places(tokens: Tensor) -> Tensor:
    """(B, T): index of the first occurrence of each token in its row."""
    if not tokens.shape[1]:
        return torch.zeros_like(tokens)
    same = tokens[:, :, None] == tokens[:, None, :]
    return same.byte().argmax(dim=2)
