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
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from espnet_llada.adapter.reader import own_log_probs, text_log_probs

DOUBT = math.log(0.5)
"""A token is tried to be replaced below that log-probability."""

AHEAD = 4
"""Tokens behind an edit by which it is judged; those further on hardly change. An edit
is not tried again where the same ones stand around it."""

Text = list[int]
Reading = Callable[[Tensor, Sequence[Text], Sequence[int]], list[Tensor]]
"""Rows (N,) int64 of the audio, a text for each, since when it is asked: ``Reader``."""


class _Try(NamedTuple):
    """A row's text with one edit; ``place``: of the doubted token."""

    row: int
    place: int
    start: int
    stop: int
    instead: Text


class _Read(NamedTuple):
    """A text that was read along.

    Attributes:
        text: its token ids.
        log_probs: (T + 1, V).
        own: what that gives to each token, as far as it was read, and to the end.
    """

    text: Text
    log_probs: Tensor
    own: list[float]

    @property
    def value(self) -> float:
        """How likely the text is."""
        return math.fsum(self.own)


def refined(
    read: Reading, texts: Sequence[Text], rounds: int, eos: int, device: torch.device
) -> tuple[list[Text], list[Tensor]]:
    """Texts that reading along finds likelier, after so many rounds of edits.

    Args:
        read: see there.
        texts: a row for each row of the audio.
        rounds: in each all of a text's edits are made that help it, of neighbours one.
        eos: id.
        device: of the audio.

    Returns:
        The texts, and (T + 1, V) of what was read along each of them.
    """

    def whole(texts: Mapping[int, Text]) -> dict[int, _Read]:
        rows = torch.tensor(list(texts), dtype=torch.long, device=device)
        found = read(rows, list(texts.values()), [0] * len(rows)) if texts else []
        triples = zip(texts, texts.values(), found, strict=True)
        return {r: _Read(t, f, text_log_probs(f, t, eos)) for r, t, f in triples}

    found = whole({row: list(text) for row, text in enumerate(texts)})
    open_rows, known = list(found), set()
    for _ in range(rounds):
        tries = [t for row in open_rows for t in _tries(row, found[row], eos)]
        around = [_around(edit, found[edit.row].text) for edit in tries]
        tries = [t for t, key in zip(tries, around, strict=True) if key not in known]
        known.update(around)
        chosen = _chosen(_gains(read, tries, found, eos, device))
        found |= _helped(whole, found, chosen)
        open_rows = sorted(chosen)
    return [own.text for own in found.values()], [r.log_probs for r in found.values()]


def _helped(
    whole: Callable[[Mapping[int, Text]], dict[int, _Read]],
    found: Mapping[int, _Read],
    chosen: Mapping[int, list[tuple[float, _Try]]],
) -> dict[int, _Read]:
    """What becomes of the texts that their edits make likelier.

    Together they may undo one another; then the best of them has to do.
    """
    helped = {}
    while chosen:
        again = {}
        edited = {
            row: _edited(found[row].text, [edit for _, edit in own])
            for row, own in chosen.items()
        }
        for row, after in whole(edited).items():
            gain, own = after.value - found[row].value, chosen[row]
            if gain > 0 and (len(own) == 1 or gain >= own[0][0]):
                helped[row] = after
            elif len(own) > 1:
                again[row] = own[:1]
        chosen = again
    return helped


def _around(edit: _Try, text: Text) -> tuple[Any, ...]:
    before = text[max(0, edit.start - AHEAD) : edit.start]
    behind = text[edit.stop : edit.stop + AHEAD]
    out = text[edit.start : edit.stop]
    return edit.row, *map(tuple, (before, out, edit.instead, behind))


def _gains(
    read: Reading,
    tries: Sequence[_Try],
    found: Mapping[int, _Read],
    eos: int,
    device: torch.device,
) -> list[tuple[float, _Try]]:
    """How much likelier an edit makes itself and the ``AHEAD`` tokens behind it."""
    if not tries:
        return []
    texts, targets = [], []
    for edit in tries:
        text = found[edit.row].text
        ahead = [*edit.instead, *text[edit.stop : edit.stop + AHEAD]]
        more = text[edit.stop + AHEAD : edit.stop + AHEAD + 1] or [eos]
        texts.append([*text[: edit.start], *ahead])
        targets.append([*ahead, *more])
    rows = torch.tensor([edit.row for edit in tries], device=device)
    gains = []
    readings = read(rows, texts, [edit.start for edit in tries])
    for edit, target, log_probs in zip(tries, targets, readings, strict=True):
        after = own_log_probs(log_probs, target[: len(log_probs)])
        before = found[edit.row].own[edit.start : edit.stop + AHEAD + 1]
        gains.append(math.fsum(after) - math.fsum(before))
    return list(zip(gains, tries, strict=True))


def _tries(row: int, read: _Read, eos: int) -> list[_Try]:
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


def _edited(text: Text, edits: Sequence[_Try]) -> Text:
    text = list(text)
    for edit in sorted(edits, key=lambda e: -e.place):  # from behind: places hold
        text[edit.start : edit.stop] = edit.instead
    return text
