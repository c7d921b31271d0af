"""The canvas: the response positions that the sampler fills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_llada.types import SpecialTokens


@dataclass(frozen=True)
class Canvas:
    """A batch of responses to start from.

    Attributes:
        tokens: (B, L) int64. A blank canvas holds mask tokens, deliberation starts
            from a transcript. Behind a row's end: EOS.
        lengths: (B,) int64, positions that belong to each row.
        confidence: (B, L) float32, natural log-probability that whoever made the
            transcript gives each token; None where nobody says.
    """

    tokens: Tensor
    lengths: Tensor
    confidence: Tensor | None = None

    @property
    def valid(self) -> Tensor:
        """(B, L) bool: False behind the end of a row."""
        places = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return places < self.lengths[:, None]


def blank_canvas(
    lengths: Sequence[int], special: SpecialTokens, device: torch.device | str = "cpu"
) -> Canvas:
    """A row of so many mask tokens for each of ``lengths``."""
    tokens = torch.full((len(lengths), max(lengths)), special.mask, device=device)
    canvas = Canvas(tokens, torch.tensor(lengths, device=device))
    return Canvas(tokens.masked_fill(~canvas.valid, special.eos), canvas.lengths)


def transcript_canvas(
    transcripts: Sequence[Sequence[int]],
    special: SpecialTokens,
    tail: int = 0,
    device: torch.device | str = "cpu",
    confidence: Sequence[Sequence[float]] | None = None,
) -> Canvas:
    """Token ids of transcripts, each followed by ``tail`` EOS positions.

    An empty transcript is a row of its tail alone (or of length 0).
    """

    def filled(rows: Sequence[Sequence], tail: list, value, dtype: torch.dtype):
        longest = max((len(row) + len(tail) for row in rows), default=0)
        table = [[*row, *tail] for row in rows]
        table = [row + [value] * (longest - len(row)) for row in table]
        return torch.tensor(table, dtype=dtype, device=device).reshape(
            len(rows), longest
        )

    sizes = [len(ids) + tail for ids in transcripts]
    tokens = filled(transcripts, [special.eos] * tail, special.eos, torch.long)
    if confidence is not None:
        confidence = filled(confidence, [0.0] * tail, 0.0, torch.float32)
    lengths = torch.tensor(sizes, dtype=torch.long, device=device)
    return Canvas(tokens, lengths, confidence)
