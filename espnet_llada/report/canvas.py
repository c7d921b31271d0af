"""The canvas of an utterance, pass by pass, as the report shows it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from espnet_llada.types import Cell, Frame

WORD_STARTS = ("▁", "Ġ")
"""Sentencepiece's and byte-level BPE's space."""
_KIND = {
    "masked": "masked on entry",
    "measured": "first pass, measured",
    "pass": "pass",
    "kept": "result of rescoring",
}


class ShownCell(NamedTuple):
    """A position as it is shown.

    Attributes:
        kinds: CSS classes.
        width: in characters, the same in each frame, so that nothing moves.
        text: of the token; empty while masked.
        title: says more.
        percent: probability that colours it, if any does.
    """

    kinds: list[str]
    width: int
    text: str = ""
    title: str = ""
    percent: int | None = None


def canvas(frames: Sequence[Frame]) -> Iterator[tuple[str, list[ShownCell]]]:
    """A caption and the cells of each frame."""
    for _, part in itertools.groupby(frames, lambda frame: len(frame.cells)):
        yield from _of_one(list(part))


def _of_one(frames: Sequence[Frame]) -> Iterator[tuple[str, list[ShownCell]]]:
    columns = list(zip(*(frame.cells for frame in frames), strict=True))
    widths = [max(1, *(len(_text(cell)) for cell in column)) for column in columns]
    starts = [any(c.token.startswith(WORD_STARTS) for c in cs) for cs in columns]
    for i, frame in enumerate(frames):
        name = _KIND[frame.kind]
        if frame.kind == "pass":
            name = f"pass {frame.passes}"
        elif frame.kind == "masked" and i and frames[i - 1].kind == "pass":
            name = "masked again"
        columns = zip(frame.cells, widths, starts, strict=True)
        yield name, [_shown(*column, frame.kind == "measured") for column in columns]


def _text(cell: Cell) -> str:
    return "·" if cell.end else cell.token.lstrip("".join(WORD_STARTS))


def _shown(cell: Cell, width: int, starts_word: bool, measured: bool) -> ShownCell:
    """What is kept from a first pass has its colour when measured only."""
    kinds = ["cell", "word"] if starts_word else ["cell"]
    if not cell.token:
        return ShownCell([*kinds, "mask"], width)
    about, percent = ["of the first pass"] if cell.given else [], None
    if cell.probability is not None:
        about.append(f"probability {cell.probability:.2f}")
        if measured or not cell.given:
            percent = round(100 * cell.probability)
    marks = {
        "end": cell.end,
        "measured": percent is not None,
        "given": cell.given,
        "now": cell.committed,
    }
    kinds += [kind for kind, holds in marks.items() if holds]
    title = "no word" if cell.end else cell.token
    title += f": {', '.join(about)}" if about else ""
    return ShownCell(kinds, width, _text(cell) or "\u00a0", title, percent)
