"""Which positions of a canvas are masked on entry."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from espnet_llada.sampler.canvas import Canvas
from espnet_llada.sampler.confidence import RowRandom


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
    """Positions to mask in rows of ``lengths``: (B,) int64.

    The ratio is rounded to the nearest position, but a ratio above 0 masks at least
    one position of a row that has any (the paper's release divides by zero there).
    """
    counts = (lengths * ratio + 0.5).floor().long()
    return torch.maximum(counts, (lengths > 0).long() * (ratio > 0))


def random_positions(canvas: Canvas, ratio: float, random: RowRandom) -> Tensor:
    """(B, L) bool: a ``ratio`` of each row's positions, drawn by the row's own seed."""
    scores = random.uniform(canvas.lengths, canvas.tokens.shape[1])
    return lowest(scores, canvas.valid, count_to_mask(canvas.lengths, ratio))


def sub_blocks(canvas: Canvas, num: int) -> list[Tensor]:
    """Each row's positions cut into ``num`` contiguous parts, left to right.

    Returns:
        ``num`` tensors (B, L) bool; a row shorter than ``num`` has empty parts.
    """
    places = torch.arange(canvas.tokens.shape[1], device=canvas.tokens.device)
    edges = [canvas.lengths * i // num for i in range(num + 1)]
    return [
        (places >= start[:, None]) & (places < stop[:, None])
        for start, stop in itertools.pairwise(edges)
    ]
