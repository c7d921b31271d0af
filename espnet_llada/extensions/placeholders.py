"""Positions of a canvas that hold no word, so that a first pass may grow and shrink.

A canvas over a first pass has a position for each of its tokens. What filling it in
again can mend is another word of as many tokens; a word too few, or one too many, or
one that has other tokens, it cannot. So there may be *slots* between the tokens: EOS,
which says that nothing is spoken at its position. A slot that is masked may take a
token, and the position of a token that is masked may become a slot.

Source: masks are inserted and deleted in Higuchi et al. 2021 (arXiv 2010.13270), by a
network of its own; placeholders and deletion are Levenshtein Transformer's (Gu et al.
2019, arXiv 1905.11006). Here one LM decides on both by what it fills in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from espnet_llada.core.confidence import RowRandom
from espnet_llada.core.prefix import Draft
from espnet_llada.extensions.alignment import corrections

EXTRA, LOST = 0.05, 0.05
"""Errors of an imagined first pass: a word too many at a gap, a token that lacks."""


def opened(
    draft: Draft, ends: Sequence[float], below: float, eos: int
) -> tuple[Draft, list[list[int]]]:
    """A transcript with a slot before each token that is in doubt.

    Args:
        draft: the transcripts.
        ends: of each, the log-probability that nothing follows.
        below: tokens (and ends) of a probability below that are in doubt.
        eos: id.

    Returns:
        The canvas, a slot as sure as the token behind it; and which position of it each
        token has, the end's last.
    """
    least = math.log(below)
    rows: list[list[int]] = []
    sure: list[list[float]] = []
    places: list[list[int]] = []
    for ids, values, end in zip(draft.ids, draft.log_probs, ends, strict=True):
        row: list[int] = []
        log_probs: list[float] = []
        where: list[int] = []
        for token, value in zip(ids, values, strict=True):
            slot = [eos] if value < least else []
            row += [*slot, token]
            log_probs += [value] * (len(slot) + 1)
            where.append(len(row) - 1)
        if end < least:
            row.append(eos)
            log_probs.append(end)
        rows.append(row)
        sure.append(log_probs)
        places.append([*where, len(row)])
    return Draft(rows, sure), places


@dataclass(frozen=True)
class Responses:
    """The responses of a training batch.

    Attributes:
        text: (B, T) int64, what they are to be.
        given: (B, T) int64, what they have where nothing is masked.
        lengths: (B,) int64.
        transcripts: B rows of token ids, what they begin as, without slots.
        places: which position each token of ``transcripts`` has, and the end; None
            where they have no slots.
    """

    text: Tensor
    given: Tensor
    lengths: Tensor
    transcripts: list[list[int]]
    places: list[list[int]] | None = None


def with_slots(
    plain: Responses,
    drafts: Sequence[Sequence[int]],
    share: float,
    eos: int,
    seeds: Sequence[int],
) -> Responses:
    """First passes with errors of all kinds, and slots that may mend them.

    Half of them are what the adapter hears, with its own errors; the others are
    imagined: the tokens that ``plain`` gives, some lost, some too many.

    Args:
        plain: the rows; those whose transcript is the draft stay as they are.
        drafts: what the adapter hears.
        share: of the gaps between tokens that have a slot.
        eos: id.
        seeds: one for each row; a row's draws depend on nothing else.
    """
    random = RowRandom(seeds, "cpu")
    kind = random.uniform(torch.ones(len(drafts), dtype=torch.long), 1)[:, 0].tolist()
    rows = []
    for row, draft in enumerate(drafts):
        size = int(plain.lengths[row])
        text = plain.text[row, :size].tolist()
        if plain.transcripts[row] is draft:
            rows.append((text, plain.given[row, :size].tolist(), None))
            continue
        draws = random.row(row, 5 * (len(text) + len(draft)))  # at most
        if kind[row] < 0.5:
            pairs = corrections(draft, text, eos)
        else:
            given = plain.given[row, :size].tolist()
            pairs = _imagined(text, given, draws, eos)
        pairs = _spaced(pairs, share, draws, eos)
        rows.append(([t for t, _ in pairs], [g for _, g in pairs], True))
    return _batch(rows, plain, eos)


def _imagined(
    text: list[int], given: list[int], draws: list[float], eos: int
) -> list[tuple[int, int]]:
    """Pairs of what is to stand at a position and what does."""
    pairs = []
    for target, token in zip(text, given, strict=True):
        if draws.pop() < EXTRA:
            # A word of the same utterance, as frequent words are.
            pairs.append((eos, text[int(draws.pop() * len(text))]))
        pairs.append((target, eos if draws.pop() < LOST else token))
    return pairs


def _spaced(
    pairs: list[tuple[int, int]], share: float, draws: list[float], eos: int
) -> list[tuple[int, int]]:
    found = []
    for pair in pairs:
        if draws.pop() < share:
            found.append((eos, eos))
        found.append(pair)
    return found


def _batch(rows: list[tuple], plain: Responses, eos: int) -> Responses:
    device = plain.text.device

    def padded(which: int) -> Tensor:
        made = [torch.tensor(row[which], dtype=torch.long) for row in rows]
        return pad_sequence(made, batch_first=True, padding_value=eos).to(device)

    transcripts, places = [], []
    for (_, given, slotted), own in zip(rows, plain.transcripts, strict=True):
        if slotted:
            there = [i for i, token in enumerate(given) if token != eos]
            own = [given[i] for i in there]
        else:
            there = [*range(len(own))]
        transcripts.append(own)
        places.append([*there, len(given) if slotted else len(own)])
    lengths = torch.tensor([len(row[0]) for row in rows], device=device)
    return Responses(padded(0), padded(1), lengths, transcripts, places)
