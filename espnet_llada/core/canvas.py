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
        confidence: (B, L) float32, natural log-probability of each given token; None
            where unknown, so that the LM has to measure it.
        gaps: True where an EOS between tokens is an empty position, not the end.
    """

    tokens: Tensor
    lengths: Tensor
    confidence: Tensor | None = None
    gaps: bool = False

    @property
    def valid(self) -> Tensor:
        """(B, L) bool: False behind the end of a row."""
        return places_of(self.tokens) < self.lengths[:, None]


def places_of(tokens: Tensor) -> Tensor:
    """Position indices (L,) int64 of a tensor (B, L, ...)."""
    return torch.arange(tokens.shape[1], device=tokens.device)


def blank_canvas(
    lengths: Sequence[int], special: SpecialTokens, device: torch.device | str = "cpu"
) -> Canvas:
    """A canvas of mask tokens, with ``lengths`` positions in each row."""
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

    An empty transcript is a row of its tail alone (or of length 0). ``confidence``:
    natural log-probability of each token, if known.
    """
    sizes = [len(ids) + tail for ids in transcripts]
    width = max(sizes, default=0)

    def filled(rows: Sequence[Sequence], value, dtype: torch.dtype) -> Tensor:
        table = [[*row, *[value] * (width - len(row))] for row in rows]
        filled = torch.tensor(table, dtype=dtype, device=device)
        return filled.reshape(len(rows), width)

    tokens = filled(transcripts, special.eos, torch.long)
    if confidence is not None:
        confidence = filled(confidence, 0.0, torch.float32)
    lengths = torch.tensor(sizes, dtype=torch.long, device=device)
    return Canvas(tokens, lengths, confidence)


def word_places(tokens: Sequence[int], special: SpecialTokens) -> list[int]:
    """Positions of the tokens of a canvas that are neither EOS nor masked."""
    nothing = special.mask, special.eos
    return [i for i, token in enumerate(tokens) if token not in nothing]
