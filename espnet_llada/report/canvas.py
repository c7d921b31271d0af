"""The canvas of an utterance, pass by pass, as HTML."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape

from espnet_llada.types import Cell, Frame

_WORD_STARTS = ("▁", "Ġ")  # sentencepiece's and byte-level BPE's space
_KIND = {
    "masked": "masked on entry",
    "measured": "first pass, measured",
    "pass": "pass",
    "kept": "kept, read along",
}


def canvas(frames: Sequence[Frame]) -> str:
    """All frames beneath one another; the page's script can play them."""
    rows: list[str] = []
    for _, part in itertools.groupby(frames, lambda frame: len(frame.cells)):
        rows += _of_one(list(part))
    return f'<div class="film">{"".join(rows)}</div>'


def _of_one(frames: Sequence[Frame]) -> list[str]:
    columns = list(zip(*(frame.cells for frame in frames), strict=True))
    widths = [_width(column) for column in columns]
    starts = [any(c.token.startswith(_WORD_STARTS) for c in cs) for cs in columns]
    rows = []
    for i, frame in enumerate(frames):
        name = _KIND[frame.kind]
        if frame.kind == "pass":
            name = f"pass {frame.passes}"
        elif frame.kind == "masked" and i and frames[i - 1].kind == "pass":
            name = "masked again"
        measured = frame.kind == "measured"
        columns = zip(frame.cells, widths, starts, strict=True)
        cells = "".join(_cell(*column, measured) for column in columns)
        rows.append(
            f'<div class="frame"><span class="caption">{name}</span>'
            f'<div class="cells">{cells}</div></div>'
        )
    return rows


def _shown(cell: Cell) -> str:
    return "" if cell.end else cell.token.lstrip("".join(_WORD_STARTS))


def _width(column: Sequence[Cell]) -> int:
    """Characters: the same in each frame, so that nothing moves."""
    return max(1, max(len(_shown(cell)) for cell in column))


def _cell(cell: Cell, width: int, starts_word: bool, measured: bool) -> str:
    """A position; what is kept from a first pass has its colour when measured only."""
    kinds, style = ["cell", "word"] if starts_word else ["cell"], f"--w:{width}"
    if not cell.token:
        return f'<i class="{" ".join(kinds)} mask" style="{style}"></i>'
    title = "of the first pass" if cell.given else ""
    if cell.end:
        kinds.append("end")
    if cell.probability is not None:
        if measured or not cell.given:
            kinds.append("sure")
            style += f";--p:{100 * cell.probability:.0f}%"
        title += f" probability {cell.probability:.2f}"
    if cell.given:
        kinds.append("given")
    if cell.committed:
        kinds.append("now")
    name = "no word" if cell.end else cell.token
    title = escape(f"{name}: {title.strip()}" if title else name, quote=True)
    text = "·" if cell.end else escape(_shown(cell)) or "&nbsp;"
    css = " ".join(kinds)
    return f'<i class="{css}" style="{style}" title="{title}">{text}</i>'
