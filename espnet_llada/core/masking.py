"""Which positions of a canvas are masked on entry."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from espnet_llada.core.canvas import Canvas
from espnet_llada.core.confidence import RowRandom


def lowest(scores: Tensor, among: Tensor, counts: Tensor) -> Tensor:
    """The ``counts`` lowest-scored positions of each row.

    Args:
        scores: (B, L) float.
        among: (B, L) bool, the candidates.
        counts: (B,) int64; more than there are candidates means all of them.

    Returns:
        (B, L) bool. Equal scores: the leftmost first.
    """
    order = scores.masked_fill(~among, torch.inf).argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return among & (rank < counts[:, None])


def count_to_mask(lengths: Tensor, ratio: float) -> Tensor:
    """Positions to mask in transcripts of ``lengths`` tokens: (B,) int64.

    ``int(length * ratio)`` in double precision, as the paper's release counts them.
    """
    return (lengths.double() * ratio).long()


def random_positions(
    canvas: Canvas, among: Tensor, counts: Tensor, random: RowRandom
) -> Tensor:
    """(B, L) bool: ``counts`` of each row's candidates, drawn by the row's own seed."""
    scores = random.uniform(canvas.lengths, canvas.tokens.shape[1])
    return lowest(scores, among, counts)


def sub_blocks(canvas: Canvas, num: int) -> list[Tensor]:
    """Each row's positions cut into ``num`` contiguous parts, left to right.

    Args:
        canvas: the rows.
        num: number of parts.

    Returns:
        ``num`` tensors (B, L) bool, whose sizes differ by one at most; a row shorter
        than ``num`` has empty parts.
    """
    places = torch.arange(canvas.tokens.shape[1], device=canvas.tokens.device)
    edges = [canvas.lengths * i // num for i in range(num)]
    return [
        (places >= start[:, None]) & (places < stop[:, None])
        for start, stop in itertools.pairwise([*edges, canvas.lengths])
    ]
