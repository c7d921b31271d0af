"""Several canvases of an utterance, word by word beside each other."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from espnet_llada.alignment import align
from espnet_llada.report.canvas import WORD_STARTS

_LEFT_OUT = "…"


@dataclass(frozen=True)
class CanvasText:
    """What one canvas came out as.

    Attributes:
        canvas: its number; 0 is what would be decoded without the others, None the
            result where that is none of them.
        text: of it.
        tokens: the LM's.
        confidence: probability of each token when it was committed.
        passes: LLM passes.
        risk: expected word errors against the other canvases.
        chosen: whether it is the result.
    """

    canvas: int | None
    text: str
    tokens: Sequence[str]
    confidence: Sequence[float]
    passes: int
    risk: float
    chosen: bool = False


@dataclass(frozen=True)
class Canvases:
    """All canvases of an utterance of a row, by number."""

    label: str
    set: str
    utt_id: str
    reference: str
    canvases: Sequence[CanvasText]


class Slot(NamedTuple):
    """What a text has at one place of the reference.

    Attributes:
        text: words, or none.
        wrong: the reference has another word, or none.
        percent: probability of the least sure token, if known.
    """

    text: str
    wrong: bool
    percent: int | None = None


def most_different(found: Mapping[str, Sequence[CanvasText]]) -> str | None:
    """The id to show: first where another canvas than 0 is the result.

    Of those where the most texts differ, the first by name; None where all agree.
    """

    def key(utt_id: str) -> tuple[bool, int, str]:
        own = found[utt_id]
        others = any(c.chosen and c.text != own[0].text for c in own)
        return not others, -len({canvas.text for canvas in own}), utt_id

    differing = [u for u, own in found.items() if len({c.text for c in own}) > 1]
    return min(differing, key=key, default=None)


def side_by_side(shown: Canvases) -> tuple[list[str], list[list[Slot]]]:
    """The reference's slots, and for each canvas its own, all of the same number.

    Words that the reference does not have get a slot in front of its next word. Of
    words that all canvases have right those next to others are shown, the rest is
    ``…``.
    """
    said = shown.reference.split()
    placed = [_placed(said, canvas) for canvas in shown.canvases]
    width = 2 * len(said) + 1
    used = [n for n in range(width) if n % 2 or any(row[n].text for row in placed)]
    differs = [any(row[n].wrong for row in placed) for n in used]
    head: list[str] = []
    rows: list[list[Slot]] = [[] for _ in placed]
    for at, n in enumerate(used):
        if any(differs[max(0, at - 1) : at + 2]):
            head.append(said[n // 2] if n % 2 else "")
            for row, own in zip(rows, placed, strict=True):
                row.append(own[n])
        elif not head or head[-1] != _LEFT_OUT:
            head.append(_LEFT_OUT)
            for row in rows:
                row.append(Slot(_LEFT_OUT, wrong=False))
    return head, rows


def _placed(said: Sequence[str], canvas: CanvasText) -> list[Slot]:
    """At each place: before a word, on it, and behind the last, (2 R + 1)."""
    words = canvas.text.split()
    sure = iter(_percents(canvas, len(words)))
    found: list[list[tuple[str, int | None]]] = [[] for _ in range(2 * len(said) + 1)]
    place = 0
    for own, word in align(said, words):
        at, place = (place, place) if own is None else (place + 1, place + 2)
        if word is not None:
            found[at].append((word, next(sure)))
    return [_slot(row, said[n // 2] if n % 2 else "") for n, row in enumerate(found)]


def _slot(words: Sequence[tuple[str, int | None]], own: str) -> Slot:
    text = " ".join(word for word, _ in words)
    known = [percent for _, percent in words if percent is not None]
    return Slot(text, text != own, min(known, default=None))


def _percents(canvas: CanvasText, count: int) -> list[int | None]:
    """Of each word, by its tokens; None where these are of another number of words."""
    tokens = enumerate(canvas.tokens)
    starts = [i for i, token in tokens if not i or token.startswith(WORD_STARTS)]
    if len(starts) != count:
        return [None] * count
    spans = itertools.pairwise([*starts, len(canvas.tokens)])
    return [round(100 * min(canvas.confidence[a:b])) for a, b in spans]
