"""Placeholders: empty positions, so that a first pass may grow and shrink.

A canvas over a first pass has a position for each of its tokens. What filling it in
again can mend is another word of as many tokens; a word too few, or one too many, or
one that has other tokens, it cannot. So there may be *placeholders* between the tokens:
EOS, which says that nothing is spoken at its position. One that is masked may take a
token, and the position of a token that is masked may become empty.

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
from espnet_llada.core.model import LMDecoder
from espnet_llada.core.objective import Targets
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import DecodingHook
from espnet_llada.core.sampler import MakePlan
from espnet_llada.extensions.ctc_prefix import Draft
from espnet_llada.extensions.posterior_prefix.alignment import corrections
from espnet_llada.extensions.requirements import need, need_scorer
from espnet_llada.io.schema import Share
from espnet_llada.networks.rows import RowRandom

EXTRA, LOST = 0.05, 0.05
"""Errors of an imagined first pass: a word too many at a gap, a token that lacks."""


@dataclass(frozen=True)
class Options:
    """``placeholders``, where a canvas has a text on entry."""

    threshold: Annotated[
        Share,
        Meta(description="one before what is less probable"),
    ] = 0.5


class Hook(DecodingHook):
    """Opens the canvas, and masks a placeholder with the token behind it."""

    @classmethod
    def check(
        cls,
        options: Options,
        decoder: LMDecoder,
        sampler: SamplerOptions,
        others: Mapping[str, Any],
    ) -> None:
        """See ``DecodingHook``."""
        need_scorer(decoder, "placeholders")
        text = sampler.deliberates or "mask_ctc" in others
        need(text, "placeholders", "no text is on the canvas; leave it out")
        why = "this model has not learnt to leave positions empty; train with "
        why += "'placeholders' in posterior_prefix"
        need(decoder.audio_prefix.options.placeholders > 0, "placeholders", why)

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
    """A transcript with a placeholder before each token that is in doubt.

    Args:
        draft: the transcripts.
        ends: of each, the log-probability that nothing follows.
        below: tokens (and ends) of a probability below that are in doubt.
        eos: id.

    Returns:
        The canvas, a placeholder as sure as the token behind it; and which position of
        it each token has, the end's last.
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
        targets: what they are to be, and already have.
        transcripts: B rows of token ids, what they begin as, without placeholders.
        places: which position each token of ``transcripts`` has, and the end; None
            where they have no placeholders.
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
    """First passes with errors of all kinds, and placeholders that may mend them.

    Half of them are the CTC's drafts, with its own errors; the others are
    imagined: the tokens that ``plain`` gives, some lost, some too many.

    Args:
        plain: the rows; those whose transcript is the draft stay as they are.
        drafts: of the CTC.
        share: of the gaps between tokens that have a placeholder.
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
