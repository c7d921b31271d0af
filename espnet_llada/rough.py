"""Text made to look like audio: what the LM can learn of listening without any speech.

Behind ``projection: words`` an utterance looks to the LM like a rough transcript of
itself: one embedding for each window, windows without a word, words heard twice, half
or wrongly. The same made from text lets the LM learn to copy, and how its tokens follow
one another, from far more words than there is speech for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_llada.sampler.confidence import RowRandom

WINDOWS = (0.97, 0.2, 0.05)
"""How likely a token has a first window, a second and a third one."""

GAPS = (0.5, 0.2)
"""How likely one and two windows without a word stand before a token."""

WRONG = 0.06
"""Of the tokens are heard as another one throughout."""

DOUBTFUL = 0.3
"""Of the windows are shared with a neighbour or with any token."""

EDGE = 3
"""Windows of silence, at most, at either end."""


def rough_audio(
    text: Tensor, lengths: Tensor, embedding: Tensor, seeds: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Windows as ``WordProjection`` hands them on, of text.

    Args:
        text: (B, T) int64 transcripts; what stands behind a row's end is ignored.
        lengths: (B,) int64.
        embedding: (V, d), the LM's.
        seeds: one for each row; a row's draws depend on nothing else.

    Returns:
        (B, A, d), and the windows of each row (B,) int64, at least 1.
    """
    random = RowRandom(seeds, text.device)
    width, vocabulary = text.shape[1], len(embedding)

    def draw(sizes: Tensor, columns: int) -> Tensor:
        return random.uniform(sizes, columns)

    def any_token(sizes: Tensor, columns: int) -> Tensor:
        return (draw(sizes, columns) * vocabulary).long().clamp(max=vocabulary - 1)

    valid = torch.arange(width, device=text.device) < lengths[:, None]
    wrong = draw(lengths, width) < WRONG
    heard = torch.where(wrong, any_token(lengths, width), text.clamp(min=0))
    # Each token has places for two gaps and three windows, of which some are there.
    chances = torch.tensor([*GAPS, *WINDOWS], device=text.device)
    slots = len(chances)
    there = draw(lengths * slots, width * slots).unflatten(1, (width, slots))
    there = (there < chances).flatten(1)
    there = there & valid.repeat_interleave(slots, dim=1)
    blank = torch.tensor([True] * len(GAPS) + [False] * len(WINDOWS))
    blank = blank.to(text.device).repeat(len(text), width)
    tokens = heard.repeat_interleave(slots, dim=1)
    # Silence before and behind, at least one window.
    silence = torch.arange(EDGE, device=text.device)
    one = torch.ones_like(lengths)
    ends = [silence < 1 + (draw(one, 1) * EDGE).long() for _ in range(2)]
    there = torch.cat([ends[0], there, ends[1]], dim=1)
    blank = F.pad(blank, (EDGE, EDGE), value=True)
    tokens = F.pad(tokens, (EDGE, EDGE))

    counts = there.sum(dim=1)
    order = (~there).int().argsort(dim=1, stable=True)[:, : int(counts.max())]
    tokens, blank = tokens.gather(1, order), blank.gather(1, order)
    given = counts, tokens.shape[1]
    step = torch.where(draw(*given) < 0.5, 1, -1)
    beside = torch.arange(given[1], device=text.device) + step
    neighbour = tokens.gather(1, beside.clamp(min=0).minimum(counts[:, None] - 1))
    other = torch.where(draw(*given) < 0.5, neighbour, any_token(*given))
    doubtful = draw(*given) < DOUBTFUL
    doubt = draw(*given) * doubtful  # the other token's share, up to all of it
    own = torch.where(blank, 0.0, 1.0 - doubt)
    doubt = torch.where(blank, doubt / 2, doubt)
    mixed = own[..., None] * embedding[tokens] + doubt[..., None] * embedding[other]
    return mixed, counts
