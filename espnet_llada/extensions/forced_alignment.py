"""CTC forced alignment: in which of the adapter's vectors each token is spoken.

Imports ``extensions.ctc_alignment`` and ``extensions.ctc_prefix``.

Source: the Viterbi path of CTC (Graves et al. 2006), as torchaudio's ``forced_align``
takes it, which is no dependency of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

_NEVER = -1e30


@dataclass(frozen=True)
class SpokenToken:
    """Where a token is spoken, and how probable it is there.

    Attributes:
        first, last: indices of vectors.
        ctc: natural log-probability by the CTC, the highest among these vectors.
        scorer: by the scorer, given the tokens before; None without one.
    """

    first: int
    last: int
    ctc: float
    scorer: float | None = None


def spoken_tokens(
    prefix: Any, texts: Sequence[Sequence[int]]
) -> list[list[SpokenToken] | None]:
    """Align texts with the audio of a batch.

    Args:
        prefix: of the batch, from ``LMDecoder.prefix``.
        texts: token ids of each row.

    Returns:
        The tokens of each row; None where a text has more tokens than the audio has
        vectors, and for all rows of a model without a CTC.
    """
    alignment = getattr(prefix, "alignment", None)
    if alignment is None:
        return [None] * len(texts)
    scores: list[list[float]] = [[]] * len(texts)
    if (scorer := getattr(prefix, "scorer", None)) is not None:
        scores = [found.own[:-1] for found in scorer(range(len(texts)), texts)]
    found: list[list[SpokenToken] | None] = []
    for row, (text, own) in enumerate(zip(texts, scores, strict=True)):
        table = alignment.columns(row, text).float().cpu().numpy()
        path = viterbi(table, text)
        if path is not None:
            # Tokens behind the longest text that the scorer reads have no score.
            padded = [*own, *[None] * (len(text) - len(own))]
            path = [
                SpokenToken(first, last, float(column[first : last + 1].max()), value)
                for (first, last), column, value in zip(
                    path, table.T[1:], padded, strict=True
                )
            ]
        found.append(path)
    return found


def viterbi(log_probs: np.ndarray, text: Sequence[int]) -> list[tuple[int, int]] | None:
    """The most probable CTC path of a text.

    Args:
        log_probs: (A, 1 + T), of the blank and of each token, in A vectors.
        text: T token ids; equal neighbours need a blank between them.

    Returns:
        The first and the last vector of each token; None if there are too few vectors.
    """
    size, states = len(log_probs), 2 * len(text) + 1
    if not text:
        return []
    emitted = np.empty((size, states))
    emitted[:, 0::2], emitted[:, 1::2] = log_probs[:, :1], log_probs[:, 1:]
    skips = np.full(states, _NEVER)  # from a token to the next one
    skips[3::2] = [0.0 if a != b else _NEVER for a, b in pairwise(text)]
    total = np.full(states, _NEVER)
    if not size:
        return None
    total[:2] = emitted[0, :2]
    steps = np.zeros((size, states), dtype=np.int8)
    for place in range(1, size):
        one, two = np.full(states, _NEVER), np.full(states, _NEVER)
        one[1:], two[2:] = total[:-1], total[:-2] + skips[2:]
        before = np.stack([total, one, two])
        steps[place] = before.argmax(axis=0)
        total = before.max(axis=0) + emitted[place]
    state = states - 1 if total[-1] > total[-2] else states - 2
    if total[state] <= _NEVER / 2:
        return None
    places: list[list[int]] = [[] for _ in text]
    for place in range(size - 1, -1, -1):
        if state % 2:
            places[state // 2].append(place)
        state -= steps[place, state]
    return [(own[-1], own[0]) for own in places]
