"""Rows with several canvases: one utterance of each set, as the report shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from espnet_llada.io.kaldi.table import read_text
from espnet_llada.report.canvases import Canvases, CanvasText, most_different
from espnet_llada.sweep.rows import SweepRow
from espnet_llada.sweep.systems import Place
from espnet_llada.types import UserError

FILE = "canvases.jsonl"
"""Beside ``text``; a line for each canvas."""


class _Line(msgspec.Struct):
    """Of the file; what else it has is not shown."""

    id: str
    canvas: int | None
    text: str
    tokens: list[str]
    confidence: list[float]
    passes: int
    risk: float
    chosen: bool


def canvases_of(row: SweepRow, place: Place, sets: Sequence[str]) -> Iterator[Canvases]:
    """One utterance of each set in which the row's canvases differ.

    Raises:
        UserError: a file does not fit; it is named.
    """
    for name in sets:
        path = place.text(row.key, name).with_name(FILE)
        if path.is_file():
            found = _read(path)
            if (utt := most_different(found)) is not None:
                reference = read_text(place.data / name / "text")[utt]
                yield Canvases(row.label, name, utt, reference, found[utt])


def _read(path: Path) -> dict[str, list[CanvasText]]:
    found: dict[str, list[CanvasText]] = {}
    try:
        lines = msgspec.json.Decoder(_Line).decode_lines(path.read_bytes())
    except msgspec.MsgspecError as e:
        raise UserError(f"{path}: no canvases ({e}); decode the set again") from e
    for line in lines:
        if len(line.tokens) != len(line.confidence):
            raise UserError(
                f"{path}: {line.id}: {len(line.tokens)} tokens with "
                f"{len(line.confidence)} confidences; decode the set again"
            )
        values = msgspec.structs.asdict(line)
        found.setdefault(values.pop("id"), []).append(CanvasText(**values))
    for utt, own in found.items():
        if sum(canvas.chosen for canvas in own) > 1:
            raise UserError(f"{path}: {utt}: two are chosen; decode the set again")
    return found
