"""Draft refinement: the scorer corrects the CTC draft before the LM sees it.

The scorer is conditioned on the draft, errors included, so its scores are better the
fewer errors there are. Where a token is improbable, the scorer's best token is tried as
a substitution and as an insertion; where the best token is the following one, or the
end, a deletion is tried. Edits that make the text more likely, by its next tokens, are
kept, and the text is scored again. Each edit is one row of a batch; no LM pass.

Imports ``extensions.whisper_scorer``.

Source: a local search over edits, as in the refinement of a draft by Align-Refine (Chi
et al. 2021, arXiv 2010.14233), with the scorer's own likelihood as the judge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from msgspec import Meta

from espnet_llada.core.canvas import Canvas
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import DecodingHook
from espnet_llada.extensions.requirements import need, need_scorer
from espnet_llada.extensions.whisper_scorer.scorer import Scored, Scorer

DOUBT = math.log(0.5)
"""Edits are tried at tokens below that log-probability."""

AHEAD = 4
"""Tokens behind an edit that its score includes; later ones hardly change. An edit is
not tried again in the same context of so many tokens."""


@dataclass(frozen=True)
class Options:
    """``draft_refinement``, for decoding."""

    rounds: Annotated[
        int, Meta(ge=0, le=1000, description="times that the scorer corrects the draft")
    ] = 1


class Hook(DecodingHook):
    """Makes the audio prefix from the refined draft."""

    def check(self, others: Mapping[str, Any]) -> None:
        """See ``DecodingHook``."""
        need_scorer(self.decoder, "draft_refinement")
        why = "deliberation has no draft of its own; leave it out"
        need(not self.sampler.deliberates, "draft_refinement", why)

    def open(self, prefix: Prefix, canvas: Canvas) -> tuple[Prefix, Canvas]:
        """See ``DecodingHook``."""
        if not self.options.rounds:
            return prefix, canvas
        texts = refined(prefix.scorer, prefix.texts, self.options.rounds)
        return prefix.along(texts), canvas


class _Try(NamedTuple):
    """One edit of a row's text; ``place``: index of the improbable token."""

    row: int
    place: int
    start: int
    stop: int
    instead: list[int]


def refined(
    scorer: Scorer, texts: Sequence[Sequence[int]], rounds: int
) -> list[Scored]:
    """Texts after rounds of edits that make them more likely by the scorer.

    Args:
        scorer: of the batch.
        texts: token ids of each row.
        rounds: each makes all edits of a text that help, one of adjacent ones.

    Returns:
        The scored texts.
    """
    found = dict(enumerate(scorer(range(len(texts)), texts)))
    open_rows, known = list(found), set()
    for _ in range(rounds):
        tries = [t for row in open_rows for t in _tries(found[row], scorer.eos)]
        around = [_around(edit, found[edit.row].text) for edit in tries]
        tries = [t for t, key in zip(tries, around, strict=True) if key not in known]
        known.update(around)
        chosen = _chosen(_gains(scorer, tries, found))
        found |= _helped(scorer, found, chosen)
        open_rows = sorted(chosen)
    return list(found.values())


def _helped(
    scorer: Scorer,
    found: Mapping[int, Scored],
    chosen: Mapping[int, list[tuple[float, _Try]]],
) -> dict[int, Scored]:
    """The edited texts that are more likely than before.

    Several edits may make a text worse together; then only the best one is made.
    """
    helped = {}
    while chosen:
        again, before = {}, [found[row] for row in chosen]
        edited = [
            _edited(old.text, [edit for _, edit in chosen[old.row]]) for old in before
        ]
        after_all = scorer.again(before, edited)
        objections = _objections(scorer, before, edited)
        for old, after, less in zip(before, after_all, objections, strict=True):
            gain, own = after.value - old.value + less, chosen[old.row]
            if gain > 0 and (len(own) == 1 or gain >= own[0][0]):
                helped[old.row] = after
            elif len(own) > 1:
                again[old.row] = own[:1]
        chosen = again
    return helped


def _around(edit: _Try, text: Sequence[int]) -> tuple[Any, ...]:
    before = text[max(0, edit.start - AHEAD) : edit.start]
    behind = text[edit.stop : edit.stop + AHEAD]
    out = text[edit.start : edit.stop]
    return edit.row, *map(tuple, (before, out, edit.instead, behind))


def _gains(
    scorer: Scorer, tries: Sequence[_Try], found: Mapping[int, Scored]
) -> list[tuple[float, _Try]]:
    """The gain in log-likelihood of each edit with the ``AHEAD`` tokens behind it."""
    if not tries:
        return []
    targets = []
    for edit in tries:
        text = [*found[edit.row].text, scorer.eos]
        targets.append([*edit.instead, *text[edit.stop : edit.stop + AHEAD + 1]])
    before = [found[edit.row] for edit in tries]
    after = scorer.values(before, [edit.start for edit in tries], targets)
    edited = [_edited(found[edit.row].text, [edit]) for edit in tries]
    objections = _objections(scorer, before, edited)
    gains = [
        value - math.fsum(old.own[edit.start : edit.stop + AHEAD + 1]) + less
        for edit, old, value, less in zip(tries, before, after, objections, strict=True)
    ]
    return list(zip(gains, tries, strict=True))


def _objections(
    scorer: Scorer, before: Sequence[Scored], edited: Sequence[Sequence[int]]
) -> list[float]:
    pairs = zip(before, edited, strict=True)
    return scorer.objections([(old.row, old.text, text) for old, text in pairs])


def _tries(old: Scored, eos: int) -> list[_Try]:
    row = old.row
    expected = old.log_probs.argmax(dim=-1).tolist()
    text = [*old.text[: len(old.log_probs) - 1], eos]
    found = []
    for place, (token, value) in enumerate(zip(text, old.own, strict=True)):
        other = expected[place]
        if other == token or value >= DOUBT:
            continue
        behind = place + 1
        if behind < len(text) and other == text[behind]:
            found.append(_Try(row, place, place, behind, []))
        elif other == eos:
            found.append(_Try(row, place, place, len(text) - 1, []))
        else:
            found.append(_Try(row, place, place, place, [other]))
            if token != eos:
                found.append(_Try(row, place, place, behind, [other]))
    return found


def _chosen(
    gains: Sequence[tuple[float, _Try]],
) -> dict[int, list[tuple[float, _Try]]]:
    """The edits of each row that help, best first, no two neighbours."""
    chosen: dict[int, list[tuple[float, _Try]]] = {}
    for gain, edit in sorted(gains, key=lambda pair: -pair[0]):
        if gain <= 0:
            break
        others = chosen.setdefault(edit.row, [])
        if all(abs(edit.place - other.place) > 1 for _, other in others):
            others.append((gain, edit))
    return chosen


def _edited(text: Sequence[int], edits: Sequence[_Try]) -> list[int]:
    text = list(text)
    for edit in sorted(
        edits, key=lambda e: -e.place
    ):  # from the end, so that places stay valid
        text[edit.start : edit.stop] = edit.instead
    return text
