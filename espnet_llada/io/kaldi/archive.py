"""Reads entries of Kaldi archives: arrays and waveforms, nothing that runs code.

kaldiio runs a place that ends in ``|``, and unpickles an entry that begins with
``PKL``. So no place of a table goes to it: it is given open files only, at entries of
the kinds listed here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from espnet_llada.io.kaldi.pipe import Pipe
from espnet_llada.types import UserError

if TYPE_CHECKING:
    import numpy as np

_PLACE = re.compile(
    r"(?P<file>.*?)(?::(?P<offset>\d{1,18}))?(?:\[(?P<ranges>[\d:, ]+)\])?", re.DOTALL
)
# Kaldi's binary and text matrices, NumPy's arrays, waveforms.
_KINDS = re.compile(rb"\0B|\s*\[|NPY|RIFF|fLaC|AUDIO")
_UNKNOWN_BYTES = 0x7FFF0000  # what sox and ffmpeg write as length into a pipe


class Place(NamedTuple):
    """A rxfilename ``FILE[:OFFSET][[RANGES]]``; the ranges are of rows and columns."""

    file: Path
    offset: int
    slices: tuple[slice, ...]


def parse_place(place: str) -> Place:
    """File, offset (bytes) and slices of a place as Kaldi writes it.

    Raises:
        UserError: a range that cannot be.
    """
    found = _PLACE.fullmatch(place)
    ranges = found["ranges"].split(",") if found["ranges"] else ()
    try:
        slices = tuple(_slice(text.strip()) for text in ranges)
    except ValueError as e:
        raise UserError(f"{place}: not a range; write [first:last]") from e
    return Place(Path(found["file"]), int(found["offset"] or 0), slices)


def _slice(text: str) -> slice:
    """Kaldi's ``first:last``, the last one included; all of them where it is empty."""
    if text in ("", ":"):
        return slice(None)
    first, last = map(int, text.split(":"))
    return slice(first, last + 1)


def read_entry(place: str) -> np.ndarray | tuple[int, np.ndarray]:
    """Read what lies at a place of a table.

    Args:
        place: ``file.ark:offset``, perhaps with ``[first:last]`` rows; or a ``Pipe``.

    Returns:
        An array; of a waveform its rate (Hz) and its samples (T,) or (T, channels).

    Raises:
        UserError: no such file; no array or waveform begins there, a pickle least of
            all; or it is cut or corrupt.
    """
    if isinstance(place, Pipe):
        return place.read(read_entry)
    file, offset, slices = parse_place(place)
    try:
        if not file.is_file():  # nor does a reader wait for a FIFO
            raise UserError(f"{file}: no such archive; check the path")
        entry = _read(place, file, offset)
        if isinstance(entry, tuple):
            return entry[0], entry[1][slices]
        return entry[slices]
    except UserError:
        raise
    except Exception as e:  # kaldiio lets through whatever its readers raise
        detail = f"{type(e).__name__}: {e}".partition("\n")[0]
        raise UserError(
            f"{place:.200}: truncated or corrupt ({detail:.120}); copy it again"
        ) from e


def _read(place: str, file: Path, offset: int) -> Any:
    import numpy as np
    from kaldiio.matio import read_kaldi

    with open(file, "rb") as f:
        size = f.seek(0, os.SEEK_END)
        f.seek(min(offset, size))  # further than some number it refuses to go
        head = f.read(16)
        if head.startswith(b"PKL"):
            raise UserError(
                f"{place}: a pickle, which runs code when it is read; write the array "
                "itself into the archive"
            )
        if not _KINDS.match(head):
            raise UserError(
                f"{place}: no array and no waveform begins there; make the table again"
            )
        # kaldiio returns what there is of a truncated WAV.
        if size - offset < _entry_bytes(head) < _UNKNOWN_BYTES:
            raise UserError(
                f"{place}: truncated or corrupt (the ark ends inside it); copy it again"
            )
        f.seek(offset)
        entry = read_kaldi(f)
    array = entry[1] if isinstance(entry, tuple) else entry
    if not isinstance(array, np.ndarray):
        raise UserError(f"{place}: holds {type(array).__name__}, no array")
    return entry


def _entry_bytes(head: bytes) -> int:
    """Size of a waveform's entry by its header; 0 where that does not say it."""
    if head.startswith(b"RIFF"):
        return 8 + int.from_bytes(head[4:8], "little")
    if head[5:] and head.startswith(b"AUDIO"):  # kaldiio's: a byte, so many of length
        return 6 + head[5] + int.from_bytes(head[6 : 6 + head[5]], "little")
    return 0
