"""Aligned positions: audio vectors are aligned with a transcript by edit distance.

Without alignment a single inserted vector would shift the positions of all that follow.

Source: Levenshtein distance, with costs by the CTC's posteriors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from espnet_llada.extensions.posterior_prefix.embeddings import AudioEmbeddings

LIKELY, OTHER = 0.5, 1.2
"""Substitution costs of a token that is among a vector's most probable ones, but not
the first, and of any other; insertions and deletions cost 1."""

INSERTED = 0.3
"""Insertion cost of a vector whose tokens have half of its weight or less."""


def aligned(
    audio: AudioEmbeddings,
    transcripts: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]] | None = None,
) -> AudioEmbeddings:
    """Give audio vectors the positions of the transcript's tokens.

    Without a transcript the position of a vector is its index, so one insertion shifts
    all that follow. Aligned by edit distance, a vector has the position of its token;
    one without a token has that of the token before it.

    Args:
        audio: of B rows.
        transcripts: B rows of token ids.
        positions: canvas positions of these tokens; by default 0, 1, ...
    """
    tokens, counts = audio.tokens.tolist(), audio.counts.tolist()
    sure = (audio.shares.sum(dim=2) > 0.5).tolist()
    places = audio.places.tolist()
    for row, text in enumerate(transcripts):
        size = counts[row]
        if text and size:
            alone = [1.0 if known else INSERTED for known in sure[row][:size]]
            numbers, _ = _aligned(tokens[row][:size], alone, text)
            numbers = [max(number, 0) for number in numbers]
            if positions is not None:
                numbers = [positions[row][number] for number in numbers]
            places[row][:size] = numbers
    places = torch.tensor(places, dtype=torch.int64, device=audio.counts.device)
    return replace(audio, places=places.reshape(audio.places.shape))


def spoken(transcript: Sequence[int], text: Sequence[int]) -> list[int]:
    """How many tokens of a text the first 0, 1, ... tokens of a transcript cover.

    A deleted token is counted with the token behind it; an inserted one covers none.
    """
    if not text:
        return [0] * (len(transcript) + 1)
    numbers, _ = _aligned([[t] for t in transcript], [1.0] * len(transcript), text)
    return [0, *(number + 1 for number in numbers)]


def corrections(
    transcript: Sequence[int], text: Sequence[int], nothing: int
) -> list[tuple[int, int]]:
    """Align a transcript with the reference: pairs of reference and given token.

    Args:
        transcript: token ids.
        text: the reference.
        nothing: the id for a missing token of a pair (deletion or insertion).
    """
    numbers, own = _aligned([[t] for t in transcript], [1.0] * len(transcript), text)
    pairs, done = [], 0
    for token, number, said in zip(transcript, numbers, own, strict=True):
        before = number if said else number + 1
        pairs += [(missed, nothing) for missed in text[done:before]]
        pairs.append((text[number] if said else nothing, token))
        done = number + 1
    return pairs + [(missed, nothing) for missed in text[done:]]


def _aligned(
    vectors: Sequence[Sequence[int]], alone: Sequence[float], text: Sequence[int]
) -> tuple[list[int], list[bool]]:
    """The index of the aligned token for each vector, and whether it has one.

    A vector without a token (at the cost ``alone``) has the index of the token before
    it, or -1.
    """
    before = [float(j) for j in range(len(text) + 1)]
    # For each vector and each prefix of the text: 0 if it is aligned with the last
    # token, 1 if it has no token, 2 if that token has no vector.
    steps = []
    for likely, lone in zip(vectors, alone, strict=True):
        first, others = likely[0], set(likely)
        row, step = [before[0] + lone], [1]
        for j, token in enumerate(text):
            known = LIKELY if token in others else OTHER
            options = (
                before[j] + (0.0 if token == first else known),
                before[j + 1] + lone,
                row[j] + 1.0,
            )
            best = min(options)
            row.append(best)
            step.append(options.index(best))
        before = row
        steps.append(step)
    return _walk_back(steps, len(text))


def _walk_back(
    steps: Sequence[Sequence[int]], end: int
) -> tuple[list[int], list[bool]]:
    numbers, own = [0] * len(steps), [False] * len(steps)
    i = len(steps)
    while i:
        step = steps[i - 1][end]
        if step == 2:  # a token without a vector
            end -= 1
            continue
        i -= 1
        own[i] = step == 0
        end -= own[i]
        numbers[i] = end if own[i] else end - 1
    return numbers, own
