"""The adapter corrects its own draft: what it reads along tells it where it is wrong.

Behind an error a reading goes on from the error, so the windows' draft is read better
the fewer errors it has. Where a reading doubts a token, the token that it expects there
is tried in its place and before it; where it expects the one behind, or the end, what
stands before that is left out. What makes the text likelier, as far as the next tokens
tell, is kept, and the text is read again. Every try is one row of a batch, and no LM is
asked.

Source: a local search over edits, as in the refinement of a draft by Align-Refine (Chi
et al. 2021, arXiv 2010.14233), with the reader's own likelihood as the judge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from espnet_llada.extensions.whisper_scorer.reader import Reader, Reading

DOUBT = math.log(0.5)
"""A token is tried to be replaced below that log-probability."""

AHEAD = 4
"""Tokens behind an edit by which it is judged; those further on hardly change. An edit
is not tried again where the same ones stand around it."""


class _Try(NamedTuple):
    """A row's text with one edit; ``place``: of the doubted token."""

    row: int
    place: int
    start: int
    stop: int
    instead: list[int]


def refined(
    reader: Reader, texts: Sequence[Sequence[int]], rounds: int
) -> list[Reading]:
    """Texts that reading along finds likelier, after so many rounds of edits.

    Args:
        reader: of the batch.
        texts: a row for each row of the audio.
        rounds: in each all of a text's edits are made that help it, of neighbours one.

    Returns:
        The texts as they were read.
    """
    found = dict(enumerate(reader(range(len(texts)), texts)))
    open_rows, known = list(found), set()
    for _ in range(rounds):
        tries = [t for row in open_rows for t in _tries(found[row], reader.eos)]
        around = [_around(edit, found[edit.row].text) for edit in tries]
        tries = [t for t, key in zip(tries, around, strict=True) if key not in known]
        known.update(around)
        chosen = _chosen(_gains(reader, tries, found))
        found |= _helped(reader, found, chosen)
        open_rows = sorted(chosen)
    return list(found.values())


def _helped(
    reader: Reader,
    found: Mapping[int, Reading],
    chosen: Mapping[int, list[tuple[float, _Try]]],
) -> dict[int, Reading]:
    """What becomes of the texts that their edits make likelier.

    Together they may undo one another; then the best of them has to do.
    """
    helped = {}
    while chosen:
        again, before = {}, [found[row] for row in chosen]
        edited = [
            _edited(read.text, [edit for _, edit in chosen[read.row]])
            for read in before
        ]
        read_again = reader.again(before, edited)
        objections = _objections(reader, before, edited)
        for read, after, less in zip(before, read_again, objections, strict=True):
            gain, own = after.value - read.value + less, chosen[read.row]
            if gain > 0 and (len(own) == 1 or gain >= own[0][0]):
                helped[read.row] = after
            elif len(own) > 1:
                again[read.row] = own[:1]
        chosen = again
    return helped


def _around(edit: _Try, text: Sequence[int]) -> tuple[Any, ...]:
    before = text[max(0, edit.start - AHEAD) : edit.start]
    behind = text[edit.stop : edit.stop + AHEAD]
    out = text[edit.start : edit.stop]
    return edit.row, *map(tuple, (before, out, edit.instead, behind))


def _gains(
    reader: Reader, tries: Sequence[_Try], found: Mapping[int, Reading]
) -> list[tuple[float, _Try]]:
    """How much likelier an edit makes itself and the ``AHEAD`` tokens behind it."""
    if not tries:
        return []
    targets = []
    for edit in tries:
        text = [*found[edit.row].text, reader.eos]
        targets.append([*edit.instead, *text[edit.stop : edit.stop + AHEAD + 1]])
    before = [found[edit.row] for edit in tries]
    after = reader.values(before, [edit.start for edit in tries], targets)
    edited = [_edited(found[edit.row].text, [edit]) for edit in tries]
    objections = _objections(reader, before, edited)
    gains = [
        value - math.fsum(read.own[edit.start : edit.stop + AHEAD + 1]) + less
        for edit, read, value, less in zip(
            tries, before, after, objections, strict=True
        )
    ]
    return list(zip(gains, tries, strict=True))


def _objections(
    reader: Reader, before: Sequence[Reading], edited: Sequence[Sequence[int]]
) -> list[float]:
    pairs = zip(before, edited, strict=True)
    return reader.objections([(read.row, read.text, text) for read, text in pairs])


def _tries(read: Reading, eos: int) -> list[_Try]:
    row = read.row
    expected = read.log_probs.argmax(dim=-1).tolist()
    text = [*read.text[: len(read.log_probs) - 1], eos]
    found = []
    for place, (token, value) in enumerate(zip(text, read.own, strict=True)):
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
    """The edits of each row that help, best first, none beside another one."""
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
    for edit in sorted(edits, key=lambda e: -e.place):  # from behind: places hold
        text[edit.start : edit.stop] = edit.instead
    return text
