r"""Reads Kaldi's tables: one set of rules for every file of ``id value`` lines.

A table is UTF-8, with or without a byte order mark. A line ends at ``\n`` or
``\r\n`` and at nothing else. The id reaches up to the first space or tab, is not
empty, shows on paper and stands once. Ids that Unicode can spell in two ways (``é`` as
one character, or as ``e`` and an accent, as macOS names files) are the same id.
"""

from __future__ import annotations

import codecs
import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from espnet_llada.io.kaldi.pipe import Pipe, is_command
from espnet_llada.types import UserError

_ID = re.compile(r"[^ \t\v\f]+")


def normal_id(utt_id: str) -> str:
    """The one spelling of an id: Unicode's NFC."""
    return utt_id if utt_id.isascii() else unicodedata.normalize("NFC", utt_id)


def read_table(path: str | Path, required: str = "") -> dict[str, str]:
    """Read ``id value`` lines, in the order of the file.

    The file is opened once, so a pipe such as ``/dev/stdin`` will do.

    Args:
        path: of the table.
        required: what the value is, where every id needs one ("speaker"). By default
            a line may hold the id alone, e.g. an empty transcript.

    Raises:
        UserError: the file cannot be read or is empty, or ``scan_table`` complains.
    """
    table, complaints = scan_table(path, required)
    if complaints:
        raise UserError(complaints[0])
    if not table:
        raise _empty(path)
    return table


def scan_table(path: str | Path, required: str = "") -> tuple[dict[str, str], list]:
    """Read ``id value`` lines as far as they can be read.

    Returns:
        The table (of an id that occurs twice, the last line; of an empty file, none),
        and a line for each thing to mend, which names the file and the number of the
        line.

    Raises:
        UserError: the file is missing or cannot be read at all.
    """
    table: dict[str, str] = {}
    complaints = []
    for number, line, complaint in _scan_lines(path):
        found = _ID.match(line)
        key = normal_id(found[0]) if found else ""
        value = line[found.end() :].strip() if found else ""
        complaint = complaint or _complaint(line, key, value, required)
        if not complaint and key in table:
            complaint = f"'{key}' occurs twice; keep one"
        if complaint:
            complaints.append(f"{path}:{number}: {complaint}")
        if key:
            table[key] = value
    return table, complaints


def _complaint(line: str, key: str, value: str, required: str) -> str:
    if not key:
        return f"no id before {line.strip()[:40]!r}, but white space; remove it"
    if not key.isprintable():
        hidden = next(c for c in key if not c.isprintable())
        return f"its id has U+{ord(hidden):04X}, which does not show; write a space"
    if required and not value:
        return f"no {required} for '{key}'; write 'id {required}'"
    return ""


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line.

    Raises:
        UserError: the file is missing, empty or not UTF-8, or has a blank line.
    """
    number = 0
    for number, line, complaint in _scan_lines(path):
        if complaint:
            raise UserError(f"{path}:{number}: {complaint}")
        yield number, line
    if not number:
        raise _empty(path)


def _empty(path: str | Path) -> UserError:
    return UserError(f"{path}: the file is empty; expected a line per utterance")


def _scan_lines(path: str | Path) -> Iterator[tuple[int, str, str]]:
    """Number, text and, if something is wrong with it, the complaint of each line."""
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as e:  # ValueError: a null byte in the name
        reason = getattr(e, "strerror", None) or e
        raise UserError(f"{path}: cannot read it ({reason}); name a file") from e
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        return
    # By "\n" only: str.splitlines would also cut at rare characters inside a line.
    for number, raw in enumerate(data.removesuffix(b"\n").split(b"\n"), start=1):
        yield number, *_decode(raw.removesuffix(b"\r"))


def _decode(raw: bytes) -> tuple[str, str]:
    try:
        # `cat` leaves a byte order mark before any line.
        line = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as e:
        complaint = f"not UTF-8 (byte {e.start}); convert the file with iconv"
        return raw.decode("utf-8", "replace"), complaint
    if "\r" in line:  # ESPnet would take it for the end of a line
        return line, "has a carriage return in it; replace it by a new line or a space"
    return line, "" if line.strip() else "blank line; delete it or give an id"


def read_text(path: str | Path) -> dict[str, str]:
    """Read a table of words: ``text`` and what is written like it (utt2spk, passes).

    Returns:
        Utterance id -> transcript, single-spaced; empty for an id alone.

    Raises:
        UserError: as ``read_table``.
    """
    return {key: " ".join(value.split()) for key, value in read_table(path).items()}


def read_numbers(
    path: str | Path,
    kind: Callable[[str], float] = int,
    separator: str | None = None,
) -> dict[str, list]:
    """Read a table of numbers (utt2num_samples, shapes), ``separator`` between them.

    Raises:
        UserError: as ``read_table``, or a line with anything but finite numbers.
    """
    numbers = {}
    for key, value in read_table(path, "number").items():
        try:
            numbers[key] = [kind(cell) for cell in value.split(separator)]
            finite = all(map(math.isfinite, numbers[key]))
        except (ValueError, OverflowError):  # a whole number of too many digits
            finite = False
        if not finite:
            raise UserError(
                f"{path}: '{key}': expected numbers, found {value[:40]!r}; make "
                "the file again"
            )
    return numbers


def read_scp(path: str | Path, allow_pipes: bool = False) -> dict[str, str]:
    """Read a table of places (Kaldi's rxfilenames): files, or entries of archives.

    Args:
        path: a ``feats.scp``; for recordings see ``read_recordings``.
        allow_pipes: take commands too (``sox … |``), as ``Pipe``; whoever reads such
            a place runs the command.

    Raises:
        UserError: as ``read_table`` and ``checked_place``.
    """
    places = read_table(path, "path")
    return {
        key: checked_place(f"{path}: '{key}'", place, allow_pipes)
        for key, place in places.items()
    }


def checked_place(name: str, place: str, allow_pipes: bool) -> str:
    """The place of an entry as it may be read: a file, or a ``Pipe``.

    Raises:
        UserError: it is a command that must not run, or standard input.
    """
    if place.startswith("|") or place == "-":
        raise UserError(f"{name}: {place[:80]!r} is no file to read; name one")
    if not is_command(place):
        return place
    if not allow_pipes:
        raise UserError(
            f"{name} is a pipe; write its output to a file, or let its command be run "
            "with --allow_pipes true"
        )
    return Pipe(place)


def read_recordings(path: str | Path, allow_pipes: bool = False) -> dict[str, str]:
    """Read a ``wav.scp`` of utterances.

    Raises:
        UserError: as ``read_scp`` and ``refuse_segments``.
    """
    places = read_scp(path, allow_pipes)
    refuse_segments(Path(path))
    return places


def refuse_segments(wav_scp: Path) -> None:
    """Refuse recordings that a ``segments`` in their directory cuts into utterances.

    Raises:
        UserError: it names the file, and who cuts.
    """
    segments = wav_scp.with_name("segments")
    if segments.exists():
        raise UserError(
            f"{segments}: not supported here; let stage 3 of an ESPnet checkout cut "
            f"the recordings, or remove it if {wav_scp.name} lists what is cut already"
        )
