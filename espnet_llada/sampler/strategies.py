"""A strategy is data: what is masked on entry, in which blocks, in how many passes.

Deliberation is the same sampler started from a partly filled canvas; none of the
strategies below has a loop of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_llada.sampler.canvas import Canvas
from espnet_llada.sampler.confidence import RowRandom, log_probabilities
from espnet_llada.sampler.masking import (
    count_to_mask,
    lowest,
    random_positions,
    sub_blocks,
)
from espnet_llada.sampler.schedule import passes_per_block
from espnet_llada.types import SamplerOptions, SpecialTokens

LogitsFn = Callable[[Tensor], Tensor]
"""tokens (B, L) int64 -> logits (B, L, V)."""


@dataclass(frozen=True)
class Block:
    """Positions that are masked together and filled in at most ``passes`` passes."""

    positions: Tensor
    passes: int


@dataclass(frozen=True)
class Plan:
    """The blocks in order, and the forward passes (B,) that planning has cost."""

    blocks: list[Block]
    spent: Tensor


def make_plan(
    logits_fn: LogitsFn,
    canvas: Canvas,
    options: SamplerOptions,
    special: SpecialTokens,
    random: RowRandom,
) -> Plan:
    """The plan of ``options.strategy`` for this canvas."""
    free = torch.zeros_like(canvas.lengths)
    if options.strategy == "diffusion":
        return Plan([Block(canvas.valid, options.steps)], free)
    if options.strategy in ("semi_ar", "deliberation_semi_ar"):
        return Plan(_left_to_right(canvas, options), free)
    if options.strategy == "deliberation_random":
        positions = random_positions(canvas, options.mask_ratio, random)
        return Plan([Block(positions, options.steps)], free)
    return _low_confidence(logits_fn, canvas, options, special)


def _left_to_right(canvas: Canvas, options: SamplerOptions) -> list[Block]:
    num = max(1, min(options.num_blocks, options.steps, canvas.tokens.shape[1]))
    passes = passes_per_block(options.steps, num)
    return [
        Block(positions, n)
        for positions, n in zip(sub_blocks(canvas, num), passes, strict=True)
    ]


def _low_confidence(
    logits_fn: LogitsFn, canvas: Canvas, options: SamplerOptions, special: SpecialTokens
) -> Plan:
    """Mask what the LM, hearing the audio on an all-mask canvas, finds least likely.

    One pass of the budget goes into that measurement. (The paper's release measures
    on a canvas of pad tokens, which training never shows the LM.)
    """
    counts = count_to_mask(canvas.lengths, options.mask_ratio)
    if not counts.any():
        return Plan([], torch.zeros_like(canvas.lengths))
    blank = canvas.tokens.masked_fill(canvas.valid, special.mask)
    log_probs = log_probabilities(logits_fn(blank), special)
    confidence = log_probs.gather(-1, canvas.tokens[..., None]).squeeze(-1)
    positions = lowest(confidence, canvas.valid, counts)
    return Plan([Block(positions, options.steps - 1)], (counts > 0).long())
