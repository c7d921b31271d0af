"""Text injection: simulated CTC posteriors, so that text alone trains the LM to copy.

In a posterior prefix an utterance looks to the LM like an uncertain transcript of
itself: a vector for each token, with insertions, deletions and substitutions. Simulated
from text, such prefixes train the LM to copy, and to model transcripts, on far more
text than there is speech. The rates below are near those of an earlier adapter of the
mini models on dev speech (LOG.md of the recipe).

``confuse_tokens`` is acoustic-confusion noise on what the response already has.

Imports ``posterior_prefix.embeddings``.

Source: text injection as in MAESTRO (Chen et al. 2022, arXiv 2204.03409), whose
simulated encoder outputs are posteriors here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_llada.extensions.posterior_prefix.embeddings import AudioEmbeddings
from espnet_llada.networks.rows import RowRandom

DELETIONS = 0.02
"""Share of the tokens without a vector."""

INSERTIONS = 0.16
"""Probability of an inserted vector before a token."""

SUBSTITUTIONS = 0.08
"""Share of the tokens whose vector is mostly that of another token."""

DOUBT = 0.8
"""The largest share of a vector that other tokens have although the right one is the
most probable; an eighth of this is the median."""


def simulated_audio(
    text: Tensor, lengths: Tensor, embedding: Tensor, seeds: Sequence[int]
) -> AudioEmbeddings:
    """Simulate the vectors of ``PosteriorEmbeddings`` from text.

    Args:
        text: (B, T) int64 transcripts; what stands behind a row's end is ignored.
        lengths: (B,) int64.
        embedding: (V, d), the LM's.
        seeds: one for each row; a row's draws depend on nothing else.

    Returns:
        Vectors (B, A, d) of two tokens each.
    """
    random = RowRandom(seeds, text.device)
    kept = _vectors(text.clamp(min=0), lengths, random)
    mixture = _mixture(kept, len(embedding), random)
    tokens = torch.stack([kept.tokens, mixture.token], dim=2)
    shares = torch.stack([mixture.own, mixture.other], dim=2)
    vectors = (shares[..., None] * embedding[tokens]).sum(dim=2)
    return AudioEmbeddings(vectors, kept.counts, tokens, shares)


def corrupt_tokens(
    text: Tensor, lengths: Tensor, share: float, vocabulary: int, seeds: Sequence[int]
) -> Tensor:
    """Replace some tokens of a text by random ones.

    An LM that can predict most of a text from context does not learn to copy. Random
    tokens can only be copied, rare ones as often as frequent ones.

    Args:
        text: (B, T) int64, as for ``simulated_audio``.
        lengths: (B,) int64.
        share: of the tokens, in [0, 1].
        vocabulary: tokens to draw from.
        seeds: one for each row; a row's draws depend on nothing else.
    """
    random = RowRandom(seeds, text.device)
    width = text.shape[1]
    drawn = _any_token(random.uniform(lengths, width), vocabulary)
    chosen = random.uniform(lengths, width) < share
    valid = torch.arange(width, device=text.device) < lengths[:, None]
    return torch.where(chosen & valid, drawn, text)


def confuse_tokens(
    given: Tensor, audio: AudioEmbeddings, share: float, seeds: Sequence[int]
) -> Tensor:
    """Replace some given tokens by the CTC's alternatives for their vectors.

    First passes, and tokens that the LM has committed, have acoustically similar
    errors; an LM that is trained on correct context alone relies on all of it.

    Args:
        given: (B, L) int64, response positions from the first.
        audio: has the alternatives of each vector.
        share: of the tokens, in [0, 1].
        seeds: one for each row; a row's draws depend on nothing else.
    """
    if not share or not audio.tokens.numel():
        return given
    random, width = RowRandom(seeds, given.device), given.shape[1]
    places = torch.arange(width, device=given.device)
    # The first vector at that position.
    numbers = audio.places.masked_fill(~audio.valid, -1)
    there = numbers[:, None] == places[:, None]  # (B, L, A)
    known, vector = there.any(dim=2), there.byte().argmax(dim=2)
    every = torch.full((len(given),), width)
    other = random.uniform(every, width) * (audio.tokens.shape[2] - 1)
    rows = torch.arange(len(given), device=given.device)[:, None]
    found = audio.tokens[rows, vector, 1 + other.long()]
    chosen = known & (random.uniform(every, width) < share)
    return torch.where(chosen, found, given)


def _any_token(draws: Tensor, vocabulary: int) -> Tensor:
    """Numbers in [0, 1) -> token ids; rounding may bring a number up to 1."""
    return (draws * vocabulary).long().clamp(max=vocabulary - 1)


@dataclass(frozen=True)
class _Vectors:
    """Which tokens have a vector: ``tokens`` (B, A), of no token where ``inserted``."""

    tokens: Tensor
    inserted: Tensor
    counts: Tensor


def _vectors(text: Tensor, lengths: Tensor, random: RowRandom) -> _Vectors:
    width = text.shape[1]
    chances = torch.tensor([INSERTIONS, 1.0 - DELETIONS], device=text.device)
    there = random.uniform(lengths * 2, width * 2).unflatten(1, (width, 2)) < chances
    valid = torch.arange(width, device=text.device) < lengths[:, None]
    there = (there & valid[..., None]).flatten(1)
    counts = there.sum(dim=1)
    order = (~there).int().argsort(dim=1, stable=True)[:, : int(counts.max())]
    return _Vectors(text.gather(1, order // 2), order % 2 == 0, counts)


@dataclass(frozen=True)
class _Mixture:
    """The shares of a vector's own token and of another one, which is ``token``."""

    own: Tensor
    other: Tensor
    token: Tensor


def _mixture(kept: _Vectors, vocabulary: int, random: RowRandom) -> _Mixture:
    """Shares of the tokens; the remainder to 1 is the blank's."""
    counts, width = kept.counts, kept.tokens.shape[1]

    def draw() -> Tensor:
        return random.uniform(counts, width)

    step = torch.where(draw() < 0.5, 1, -1)
    next_to = torch.arange(width, device=counts.device) + step
    last = (counts[:, None] - 1).clamp(min=0)
    neighbour = kept.tokens.gather(1, next_to.clamp(min=0).minimum(last))
    any_token = _any_token(draw(), vocabulary)
    token = torch.where(draw() < 0.5, neighbour, any_token)
    sure = 1 - DOUBT * draw() ** 3
    rest = (1 - sure) * draw()
    wrong = draw() < SUBSTITUTIONS
    own, other = torch.where(wrong, rest, sure), torch.where(wrong, sure * draw(), rest)
    token = torch.where(wrong, any_token, token)
    own = own.masked_fill(kept.inserted, 0.0)
    # In three of five insertions the blank has more than half of the vector.
    return _Mixture(own, torch.where(kept.inserted, draw() ** 1.5, other), token)
