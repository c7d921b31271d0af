"""A strategy is data: what is masked on entry, in which blocks, in how many passes.

Deliberation is the same sampler started from a partly filled canvas; none of the
strategies below has a loop of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_llada.core.canvas import Canvas
from espnet_llada.core.confidence import RowRandom, log_probabilities
from espnet_llada.core.masking import (
    count_to_mask,
    lowest,
    random_positions,
    sub_blocks,
)
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.schedule import passes_per_block
from espnet_llada.types import SpecialTokens

LogitsFn = Callable[[Tensor, Tensor], Tensor]
"""tokens (B, L) int64, wanted (B, L) bool -> logits (N, V) of the N wanted positions,
row by row. One call is one pass; a row of which nothing is wanted need not be run."""


@dataclass(frozen=True)
class Block:
    """Positions that are masked together and filled in at most ``passes`` passes.

    Attributes:
        positions: (B, L) bool, masked on entry; only there may a pass commit.
        passes: the budget.
    """

    positions: Tensor
    passes: int


@dataclass(frozen=True)
class Plan:
    """What is to be filled.

    Attributes:
        blocks: in order.
        spent: (B,) int64, forward passes that planning has cost.
        measured: (B, L) float32, log-probability of each given token, where planning
            has measured it.
    """

    blocks: list[Block]
    spent: Tensor
    measured: Tensor | None = None


def make_plan(
    logits_fn: LogitsFn,
    canvas: Canvas,
    options: SamplerOptions,
    special: SpecialTokens,
    random: RowRandom,
) -> Plan:
    """The plan of ``options.strategy`` for this canvas.

    A row of which nothing is to be masked has no pass and keeps its transcript.
    """
    strategy, free = options.strategy, torch.zeros_like(canvas.lengths)
    if strategy == "diffusion":
        return Plan([Block(canvas.valid, options.steps)], free)
    if strategy in ("semi_ar", "deliberation_semi_ar"):
        return Plan(_left_to_right(canvas, options), free)
    own, tail = _transcript_and_tail(canvas, options.tail, special)
    slots = canvas.valid & ~own & ~tail
    measured, steps = None, options.steps
    counts = count_to_mask(own.sum(dim=1), options.mask_ratio)
    if strategy == "deliberation_random":
        chosen = random_positions(canvas, own, counts, random)
    elif strategy == "mask_ctc" or not options.measuring_passes:
        among = own | slots if options.mask_below else own
        chosen = _least_sure(canvas.confidence, among, counts, options)
    elif counts.any() or options.mask_below:
        passes = options.measuring_passes
        measured = _confidence(logits_fn, canvas, special, passes)
        chosen = _least_sure(measured, own, counts, options)
        asked = own.any(dim=1) if options.mask_below else counts > 0
        free = asked * passes
        steps -= passes
    else:
        return Plan([], free)
    # The tail is in doubt whenever anything is, a slot with the position behind it.
    chosen = chosen | (tail & chosen.any(dim=1, keepdim=True))
    chosen = chosen | (slots & F.pad(chosen[:, 1:], (0, 1)))
    return Plan([Block(chosen, steps)], free, measured)


def _least_sure(
    log_probs: Tensor, own: Tensor, counts: Tensor, options: SamplerOptions
) -> Tensor:
    """(B, L) bool: so many of a row's own positions, or those below ``mask_below``."""
    if not options.mask_below:
        return lowest(log_probs, own, counts)
    return own & (log_probs < math.log(options.mask_below))


def _transcript_and_tail(
    canvas: Canvas, tail: int, special: SpecialTokens
) -> tuple[Tensor, Tensor]:
    """The tokens of a transcript, which may have slots between them, and the tail."""
    places = torch.arange(canvas.tokens.shape[1], device=canvas.tokens.device)
    own = places < (canvas.lengths - tail)[:, None]
    return own & (canvas.tokens != special.eos), canvas.valid & ~own


def _left_to_right(canvas: Canvas, options: SamplerOptions) -> list[Block]:
    num = max(1, min(options.num_blocks, options.steps, canvas.tokens.shape[1]))
    passes = passes_per_block(options.steps, num)
    return [Block(*b) for b in zip(sub_blocks(canvas, num), passes, strict=True)]


def _confidence(
    logits_fn: LogitsFn,
    canvas: Canvas,
    special: SpecialTokens,
    passes: int,
) -> Tensor:
    """(B, L): how likely the LM, hearing the audio, finds each given token.

    Each of k passes hides every k-th position, so the LM knows nothing of the token it
    is asked for; with one pass it hears the audio alone.
    """
    turn = torch.arange(canvas.tokens.shape[1], device=canvas.tokens.device) % passes
    confidence = torch.zeros(canvas.tokens.shape, device=canvas.tokens.device)
    for number in range(passes):
        asked = canvas.valid & (turn == number)
        shown = canvas.tokens.masked_fill(asked, special.mask)
        log_probs = log_probabilities(logits_fn(shown, asked), special)
        given = log_probs.gather(-1, canvas.tokens[asked][:, None])
        confidence.masked_scatter_(asked, given)
    return confidence
