"""What the adapter hands to the LM."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Heard:
    """The audio of a batch as the LM is shown it.

    Attributes:
        vectors: (B, A, d).
        counts: (B,) int64, vectors of each row.
        tokens: (B, A, K) int64, the likeliest tokens of each vector; None where a
            vector stands for no words.
        shares: (B, A, K), how much of a vector is that token's; at most 1 together.
        first: (B, A K) int64, where in a row the same token stands for the first time.
    """

    vectors: Tensor
    counts: Tensor
    tokens: Tensor | None = None
    shares: Tensor | None = None
    first: Tensor | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None and self.first is None:
            first = first_places(self.tokens.flatten(1))
            object.__setattr__(self, "first", first)

    def rows(self, chosen: Tensor) -> Heard:
        """Some of the rows: (N,) int64; without the padding that only others need."""
        counts = self.counts[chosen]
        width = int(counts.max()) if len(chosen) else 0
        if self.tokens is None:
            return Heard(self.vectors[chosen, :width], counts)
        kept = width * self.tokens.shape[2]
        return Heard(
            self.vectors[chosen, :width],
            counts,
            self.tokens[chosen, :width],
            self.shares[chosen, :width],
            self.first[chosen, :kept],
        )


def first_places(tokens: Tensor) -> Tensor:
    """(B, T): where each row has this token for the first time."""
    if not tokens.shape[1]:
        return torch.zeros_like(tokens)
    same = tokens[:, :, None] == tokens[:, None, :]
    return same.byte().argmax(dim=2)
