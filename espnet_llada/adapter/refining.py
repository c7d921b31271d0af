"""The adapter corrects its own draft: what it reads along tells it where it is wrong.

Behind an error a reading goes on from the error, so the windows' draft is read better
the fewer errors it has. Where a reading doubts a token, the token that it expects there
is tried in its place and before it; where it expects the one behind, or the end, what
stands before that is left out. What makes the text likelier is kept, and the text is
read again. Every try is one row of a batch, and no LM is asked.

Source: a local search over edits, as in the refinement of a draft by Align-Refine (Chi
et al. 2021, arXiv 2010.14233), with the reader's own likelihood as the judge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

DOUBT = math.log(0.5)
"""A token is tried to be replaced below that log-probability."""

Text = list[int]
Read = Callable[[Tensor, Sequence[Text]], tuple[Tensor, Tensor]]
"""Rows (N,) int64 of the audio and a text for each -> what ``TextQFormer`` gives."""


class _Try(NamedTuple):
    """A row's text with one edit; ``place``: of the doubted token."""

    row: int
    place: int
    start: int
    stop: int
    instead: Text


def likelihoods(log_probs: Tensor, texts: Sequence[Text], eos: int) -> list[float]:
    """The log-probability of each text and its end.

    Args:
        log_probs: (N, T + 1, V) of readings along the texts; tokens behind the first T
            count nothing.
        texts: N rows.
        eos: id.
    """
    width = log_probs.shape[1]
    rows = [[*text[: width - 1], eos] for text in texts]
    ids = [row + [0] * (width - len(row)) for row in rows]
    ids = torch.tensor(ids, device=log_probs.device)
    own = log_probs.gather(2, ids[..., None])[..., 0].tolist()
    return [math.fsum(row[: len(ids)]) for row, ids in zip(own, rows, strict=True)]


def refined(
    read: Read, texts: Sequence[Text], rounds: int, eos: int, device: torch.device
) -> list[Text]:
    """Texts that reading along finds likelier, after so many rounds of edits.

    Args:
        read: see there.
        texts: a row for each row of the audio.
        rounds: in each all of a text's edits are made that help it, of neighbours one.
        eos: id.
        device: of the audio.
    """
    found = [list(text) for text in texts]
    open_rows = list(range(len(found)))
    for _ in range(rounds):
        if not open_rows:
            break
        here = torch.tensor(open_rows, device=device)
        log_probs, _ = read(here, [found[row] for row in open_rows])
        values = likelihoods(log_probs, [found[row] for row in open_rows], eos)
        before = dict(zip(open_rows, values, strict=True))
        tries = [[t] for t in _tries(open_rows, log_probs, found, eos)]
        gains = _gains(read, tries, found, before, eos, device)
        chosen = _chosen(gains)
        # Together they may undo one another; then the best of them has to do.
        several = [edits for edits in chosen.values() if len(edits) > 1]
        for gain, edits in _gains(read, several, found, before, eos, device):
            if gain < max(g for g, tried in gains if tried == edits[:1]):
                chosen[edits[0].row] = edits[:1]
        for row, edits in chosen.items():
            found[row] = _edited(found[row], edits)
        open_rows = sorted(chosen)
    return found


def _gains(
    read: Read,
    tries: Sequence[list[_Try]],
    texts: Sequence[Text],
    before: Mapping[int, float],
    eos: int,
    device: torch.device,
) -> list[tuple[float, list[_Try]]]:
    """How much likelier edits of a row make its text."""
    if not tries:
        return []
    numbers = [edits[0].row for edits in tries]
    edited = [_edited(texts[row], t) for row, t in zip(numbers, tries, strict=True)]
    rows = torch.tensor(numbers, device=device)
    values = likelihoods(read(rows, edited)[0], edited, eos)
    triples = zip(values, numbers, tries, strict=True)
    return [(value - before[row], edits) for value, row, edits in triples]


def _tries(
    rows: Sequence[int], log_probs: Tensor, texts: Sequence[Text], eos: int
) -> list[_Try]:
    expected = log_probs.argmax(dim=-1).tolist()
    found = []
    for number, row in enumerate(rows):
        text = [*texts[row][: log_probs.shape[1] - 1], eos]
        ids = torch.tensor(text, device=log_probs.device)
        own = log_probs[number, : len(text)].gather(1, ids[:, None])[:, 0].tolist()
        for place, (token, value) in enumerate(zip(text, own, strict=True)):
            other = expected[number][place]
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


def _chosen(gains: Sequence[tuple[float, list[_Try]]]) -> dict[int, list[_Try]]:
    """The edits of each row that help, best first, none beside another one."""
    chosen: dict[int, list[_Try]] = {}
    for gain, (edit,) in sorted(gains, key=lambda pair: -pair[0]):
        if gain <= 0:
            break
        others = chosen.setdefault(edit.row, [])
        if all(abs(edit.place - other.place) > 1 for other in others):
            others.append(edit)
    return chosen


def _edited(text: Text, edits: Sequence[_Try]) -> Text:
    text = list(text)
    for edit in sorted(edits, key=lambda e: -e.place):  # from behind: places hold
        text[edit.start : edit.stop] = edit.instead
    return text
