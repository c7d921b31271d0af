"""Placeholders: empty positions for insertions into a first pass, and deletions.

A canvas over a first pass has a position for each of its tokens, so only substitutions
by as many tokens are possible. *Placeholders* are positions between the tokens that
hold EOS, which means that nothing is spoken there. A masked placeholder may become a
token (insertion), a masked token may become EOS (deletion).

Imports ``extensions.posterior_prefix.alignment`` and ``ctc_prefix.Draft``.

Source: masks are inserted and deleted in Higuchi et al. 2021 (arXiv 2010.13270), by a
network of its own; placeholders and deletion are Levenshtein Transformer's (Gu et al.
2019, arXiv 1905.11006). Here one LM decides on both by what it fills in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from espnet_llada.core.canvas import Canvas, transcript_canvas
from espnet_llada.core.masking import LogitsFn, Plan, transcript_and_tail
from espnet_llada.core.objective import Targets
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import DecodingHook
from espnet_llada.core.sampler import MakePlan
from espnet_llada.extensions.ctc_prefix import Draft
from espnet_llada.extensions.posterior_prefix.alignment import corrections
from espnet_llada.extensions.requirements import need, need_scorer
from espnet_llada.io.schema import Share
from espnet_llada.networks.rows import RowRandom

EXTRA, LOST = 0.05, 0.05
"""Error rates of a simulated first pass: insertions at a gap, deletions of tokens."""


@dataclass(frozen=True)
class Options:
    """``placeholders``, for a canvas that has a text on entry."""

    threshold: Annotated[
        Share,
        Meta(description="one before each less probable token"),
    ] = 0.5


class Hook(DecodingHook):
    """Inserts placeholders, and masks each together with the token behind it."""

    def check(self, others: Mapping[str, Any]) -> None:
        """See ``DecodingHook``."""
        need_scorer(self.decoder, "placeholders")
        text = self.sampler.deliberates or "mask_ctc" in others
        need(text, "placeholders", "no text is on the canvas; leave it out")
        why = "this model was not trained with placeholders; train with "
        why += "'placeholders' in posterior_prefix"
        need(self.decoder.audio_prefix.options.placeholders > 0, "placeholders", why)

    def open(self, prefix: Prefix, canvas: Canvas) -> tuple[Prefix, Canvas]:
        """See ``DecodingHook``."""
        if not self.options.threshold:
            return prefix, canvas
        special, ends = self.decoder.special, [s.own[-1] for s in prefix.scored]
        given = prefix.draft, ends, self.options.threshold, special.eos
        draft, places = insert_placeholders(*given)
        tail, device = self.sampler.tail, canvas.tokens.device
        canvas = transcript_canvas(draft.ids, special, tail, device, draft.log_probs)
        return prefix.along(prefix.scored, places), replace(canvas, gaps=True)

    def plan(
        self, make: MakePlan, logits_fn: LogitsFn, canvas: Canvas, random: RowRandom
    ) -> Plan:
        """See ``DecodingHook``."""
        plan = make(logits_fn, canvas, random)
        if self.sampler.strategy.endswith("semi_ar"):  # its blocks have all positions
            return plan
        own, tail = transcript_and_tail(canvas, self.sampler.tail, self.decoder.special)
        gaps = canvas.valid & ~own & ~tail
        blocks = [
            replace(block, positions=p | (gaps & F.pad(p[:, 1:], (0, 1))))
            for block in plan.blocks
            for p in [block.positions]
        ]
        return replace(plan, blocks=blocks)


def insert_placeholders(
    draft: Draft, ends: Sequence[float], below: float, eos: int
) -> tuple[Draft, list[list[int]]]:
    """Insert a placeholder before each improbable token of a transcript.

    Args:
        draft: the transcripts.
        ends: log-probability of each transcript's end.
        below: probability below which a token (or the end) gets a placeholder.
        eos: id.

    Returns:
        The canvas, where a placeholder has the log-probability of the token behind it;
        and the canvas position of each token, and of the end.
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
            gap = [eos] if value < least else []
            row += [*gap, token]
            log_probs += [value] * (len(gap) + 1)
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
        targets: reference tokens, and given tokens.
        transcripts: B rows of token ids, the given texts without placeholders.
        places: canvas position of each token of ``transcripts``, and of the end; None
            without placeholders.
    """

    targets: Targets
    transcripts: list[list[int]]
    places: list[list[int]] | None = None


def with_placeholders(
    plain: Responses,
    drafts: Sequence[Sequence[int]],
    share: float,
    eos: int,
    seeds: Sequence[int],
) -> Responses:
    """First passes with errors, and placeholders for insertions and deletions.

    Half of them are CTC drafts, with their errors; the others are simulated: the given
    tokens of ``plain`` with deletions and insertions.

    Args:
        plain: the rows; rows whose transcript is the draft are not changed.
        drafts: the CTC's.
        share: share of the gaps between tokens that get a placeholder.
        eos: id.
        seeds: one for each row; a row's draws depend on nothing else.
    """
    random = RowRandom(seeds, "cpu")
    kind = random.uniform(torch.ones(len(drafts), dtype=torch.long), 1)[:, 0].tolist()
    rows, targets = [], plain.targets
    for row, draft in enumerate(drafts):
        size = int(targets.lengths[row])
        text = targets.text[row, :size].tolist()
        if plain.transcripts[row] is draft:
            rows.append((text, targets.given[row, :size].tolist(), None))
            continue
        draws = random.row(row, 5 * (len(text) + len(draft)))  # at most
        if kind[row] < 0.5:
            pairs = corrections(draft, text, eos)
        else:
            given = targets.given[row, :size].tolist()
            pairs = _imagined(text, given, draws, eos)
        pairs = _spaced(pairs, share, draws, eos)
        rows.append(([t for t, _ in pairs], [g for _, g in pairs], True))
    return _batch(rows, plain, eos)


def _imagined(
    text: list[int], given: list[int], draws: list[float], eos: int
) -> list[tuple[int, int]]:
    """Pairs of target and given token, with simulated errors."""
    pairs = []
    for target, token in zip(text, given, strict=True):
        if draws.pop() < EXTRA:
            # A token of the same utterance, since these are often frequent ones.
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
    device = plain.targets.text.device

    def padded(which: int) -> Tensor:
        made = [torch.tensor(row[which], dtype=torch.long) for row in rows]
        return pad_sequence(made, batch_first=True, padding_value=eos).to(device)

    transcripts, places = [], []
    for (_, given, spaced), own in zip(rows, plain.transcripts, strict=True):
        if spaced:
            there = [i for i, token in enumerate(given) if token != eos]
            own = [given[i] for i in there]
        else:
            there = [*range(len(own))]
        transcripts.append(own)
        places.append([*there, len(given) if spaced else len(own)])
    lengths = torch.tensor([len(row[0]) for row in rows], device=device)
    return Responses(Targets(padded(0), lengths, padded(1)), transcripts, places)
