"""A strategy is data: what is masked on entry, in which blocks, in how many passes.

Deliberation is the same sampler started from a partly filled canvas; none of the
strategies below has a loop of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_llada.core.canvas import Canvas, places_of
from espnet_llada.core.options import SamplerOptions
from espnet_llada.networks.rows import RowRandom
from espnet_llada.types import SpecialTokens

LogitsFn = Callable[[Tensor, Tensor], Tensor]
"""tokens (B, L) int64, wanted (B, L) bool -> logits (N, V) of the N wanted positions,
row by row. One call is one pass; rows without a wanted position need not be run."""


@dataclass(frozen=True)
class Block:
    """Positions (B, L) bool that are masked together, and their budget of passes.

    A pass over the block commits only at these positions.
    """

    positions: Tensor
    passes: int


@dataclass(frozen=True)
class Plan:
    """What is masked, in which order.

    Attributes:
        blocks: in order.
        spent: (B,) int64, forward passes used for planning.
        measured: (B, L) float32, log-probability of each given token; None if planning
            measures none.
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

    A row with nothing to mask takes no pass and keeps its transcript.
    """
    strategy, free = options.strategy, torch.zeros_like(canvas.lengths)
    if strategy == "diffusion":
        return Plan([Block(canvas.valid, options.steps)], free)
    if strategy in ("semi_ar", "deliberation_semi_ar"):
        return Plan(_left_to_right(canvas, options), free)
    own, tail = transcript_and_tail(canvas, options.tail, special)
    counts = count_to_mask(own.sum(dim=1), options.mask_ratio)
    steps, measured = options.steps, None
    if strategy == "deliberation_random":
        scores = random.uniform(canvas.lengths, own.shape[1])
    elif not counts.any():
        return Plan([], free)
    else:
        scores = measured = measure(logits_fn, canvas, special)
        free, steps = (counts > 0).long(), steps - 1
    chosen = lowest(scores, own, counts)
    return Plan([Block(with_tail(chosen, tail), steps)], free, measured)


def transcript_and_tail(
    canvas: Canvas, tail: int, special: SpecialTokens
) -> tuple[Tensor, Tensor]:
    """(B, L) bool each: the tokens of the transcripts, and the tail behind them."""
    text = places_of(canvas.tokens) < (canvas.lengths - tail)[:, None]
    return text & (canvas.tokens != special.eos), canvas.valid & ~text


def with_tail(chosen: Tensor, tail: Tensor) -> Tensor:
    """What is masked, (B, L) bool: the tail too, wherever something is chosen."""
    return chosen | (tail & chosen.any(dim=1, keepdim=True))


def measure(
    logits_fn: LogitsFn, canvas: Canvas, special: SpecialTokens, passes: int = 1
) -> Tensor:
    """(B, L): the LM's log-probability of each given token, given the audio.

    Each of k passes masks every k-th position, so a token never sees itself; with one
    pass everything is masked, and the LM has the audio alone.
    """
    turn = places_of(canvas.tokens) % passes
    confidence = torch.zeros(canvas.tokens.shape, device=canvas.tokens.device)
    for number in range(passes):
        asked = canvas.valid & (turn == number)
        shown = canvas.tokens.masked_fill(asked, special.mask)
        log_probs = log_probabilities(logits_fn(shown, asked), special)
        given = log_probs.gather(-1, canvas.tokens[asked][:, None])
        confidence.masked_scatter_(asked, given)
    return confidence


def log_probabilities(logits: Tensor, special: SpecialTokens) -> Tensor:
    """(N, V) logits -> (N, V) float32; the mask token has probability 0."""
    logits = logits.to(torch.float32, copy=True)  # the caller keeps its own
    if special.mask < logits.shape[-1]:
        logits[..., special.mask] = -torch.inf
    return logits.log_softmax(dim=-1)


def lowest(scores: Tensor, among: Tensor, counts: Tensor) -> Tensor:
    """(B, L) bool: the ``counts`` (B,) lowest-scored positions of each row.

    Candidates are the positions ``among`` (B, L), all of them if there are fewer.
    Equal scores: the leftmost first.
    """
    order = scores.masked_fill(~among, torch.inf).argsort(dim=1, stable=True)
    rank = torch.empty_like(order)
    rank.scatter_(1, order, places_of(order).expand_as(order))
    return among & (rank < counts[:, None])


def count_to_mask(lengths: Tensor, ratio: float) -> Tensor:
    """(B,) int64: int(length * ratio) in double precision, as in the release."""
    return (lengths.double() * ratio).long()


def _left_to_right(canvas: Canvas, options: SamplerOptions) -> list[Block]:
    """Sub-blocks that share the budget; the first ones take the remainder."""
    num = max(1, min(options.num_blocks, options.steps, canvas.tokens.shape[1]))
    share, rest = divmod(options.steps, num)
    blocks = enumerate(sub_blocks(canvas, num))
    return [Block(positions, share + (i < rest)) for i, positions in blocks]


def sub_blocks(canvas: Canvas, num: int) -> list[Tensor]:
    """``num`` contiguous parts of each row, (B, L) bool each, left to right.

    Their sizes differ by one at most; a row shorter than ``num`` has empty parts.
    """
    places = places_of(canvas.tokens)
    edges = [canvas.lengths * i // num for i in range(num)]
    return [
        (places >= start[:, None]) & (places < stop[:, None])
        for start, stop in itertools.pairwise([*edges, canvas.lengths])
    ]


def commits_per_pass(masked: Tensor, passes: int) -> Tensor:
    """How many positions each pass commits, so that ``passes`` passes fill a block.

    Args:
        masked: (B,) int64, masked positions of each row.
        passes: budget of the block, >= 1; at most one pass for each masked position.

    Returns:
        (B, passes) int64 summing to ``masked``; the earlier passes take the remainder
        (as LLaDA's get_num_transfer_tokens).
    """
    passes = min(passes, max([1, *masked.tolist()]))
    share, rest = masked // passes, masked % passes
    places = torch.arange(passes, device=masked.device)
    return share[:, None] + (places < rest[:, None]).long()
