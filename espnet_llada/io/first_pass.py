"""Reads transcripts as other recognisers write them, for deliberation.

Kaldi's ``text``; a decoding directory of ESPnet (``1best_recog/text``) or of ours; JSON
of Whisper, faster-whisper and ``espnet-llada transcribe --format json``; CTM; SRT and
WebVTT. The suffix decides, a file with none of these is Kaldi's. A JSON, SRT or VTT
of one recording has its name: ``a.json`` is of ``a.flac``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from espnet_llada.io.files import read_text_file
from espnet_llada.io.kaldi.table import normal_id, read_table
from espnet_llada.io.schema import check_plain
from espnet_llada.types import UserError

_IN_DIRECTORY = (
    *("text", "1best_recog/text", "output.*/1best_recog/text"),
    *("logdir/output.*/1best_recog/text", "*/text"),
    *("*.json", "ctm", "*.ctm", "*.srt", "*.vtt"),
)
"""What is read of a directory: the first of these that there is."""

_AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".sph", ".aiff")
_TAGS = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")  # of subtitles: <i>, <v Name>, {\an8}
_NO_WORDS = ("<eps>", "@")  # of a CTM

Pairs = Iterator[tuple[str, str]]


def read_first_pass(path: str | Path, utt_ids: Iterable[str]) -> dict[str, str]:
    """First-pass transcripts of the utterances.

    Args:
        path: a file or directory, see above.
        utt_ids: every one of them needs a transcript; an empty one is allowed.

    Returns:
        At least their transcripts, by their ids.

    Raises:
        UserError: no such file, it cannot be read, or an utterance has no transcript,
            or two.
    """
    texts: dict[str, str] = {}
    for file in _files(Path(path)):
        suffix = ".ctm" if file.name == "ctm" else file.suffix.lower()
        read = _READERS.get(suffix, _read_kaldi)
        for utt_id, text in read(file):
            if texts.setdefault(utt_id, text) != text:
                raise UserError(
                    f"{file}: another transcript of '{utt_id}' is in {path} too; name "
                    "the text of one set"
                )
    utt_ids = list(utt_ids)
    missing = [u for u in utt_ids if u not in texts]
    if missing:
        there = f", but one for '{next(iter(texts))}'" if texts else ""
        raise UserError(
            f"{path}: no transcript for {len(missing)} utterances, the first is "
            f"'{missing[0]}'{there}; run the first pass on the same set"
        )
    return texts


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    for pattern in _IN_DIRECTORY:
        if files := sorted(file for file in path.glob(pattern) if file.is_file()):
            return files
    raise UserError(
        f"{path}: no transcripts in it (*/text, *.json, *.ctm, *.srt, *.vtt); name a "
        "decoded directory or a file"
    )


def _read_kaldi(file: Path) -> Pairs:
    yield from read_table(file).items()  # word for word, and space for space


def _read_json(file: Path) -> Pairs:
    text = read_text_file(file, "JSON")
    if not text.strip():
        raise UserError(f"{file}: empty; write it again")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = [_json_line(file, *line) for line in enumerate(text.split("\n"), 1)]
        content = [line for line in content if line is not None]
    check_plain(content, file, 1000 + 10 * len(text))
    many = content if isinstance(content, list) else [content]
    if not all(isinstance(item, dict) for item in many):
        raise _unknown_json(file)
    # Of Whisper's segments the ids are numbers.
    named = [item for item in many if isinstance(item.get("id"), str)]
    if named and len(named) == len(many):
        for item in named:
            yield recording_id(item["id"]), _json_text(file, item)
        return
    yield recording_id(file.stem), _joined(_json_text(file, item) for item in many)


def _json_line(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line) if line.strip() else None
    except (ValueError, RecursionError) as e:
        raise UserError(f"{file}:{number}: not valid JSON ({e}); write it again") from e


def _json_text(file: Path, item: dict[str, Any]) -> str:
    """The text of a recording, or of a segment."""
    if isinstance(item.get("text"), str):
        return _joined([item["text"]])
    segments = item.get("segments")
    if isinstance(segments, list) and all(isinstance(s, dict) for s in segments):
        return _joined(_json_text(file, segment) for segment in segments)
    raise _unknown_json(file)


def _unknown_json(file: Path) -> UserError:
    return UserError(
        f"{file}: no transcript known here; expected 'text' or 'segments', as Whisper "
        "writes them"
    )


def _read_ctm(file: Path) -> Pairs:
    words: dict[str, list[tuple[float, str]]] = {}
    for number, line in enumerate(read_text_file(file, "CTM").splitlines(), 1):
        if not line.strip() or line.startswith((";;", "#")):
            continue
        cells = line.split()
        try:
            name, _, start, _, word = cells[:5]
            start = float(start)
        except ValueError as e:
            raise UserError(
                f"{file}:{number}: expected 'recording channel start duration word'"
            ) from e
        if word.startswith("<ALT"):
            raise UserError(f"{file}:{number}: has alternatives; keep one of them")
        own = words.setdefault(recording_id(name), [])
        if word not in _NO_WORDS:
            own.append((start, word))
    for name, found in words.items():
        yield name, " ".join(word for _, word in sorted(found, key=lambda w: w[0]))


def _read_subtitles(file: Path) -> Pairs:
    """SRT or WebVTT: the lines below each time."""
    blocks = re.split(r"\n[ \t]*\n", read_text_file(file, "SRT").replace("\r", ""))
    cues = []
    for block in blocks:
        _, arrow, after = block.partition("-->")
        if arrow:
            cues.append(after.partition("\n")[2])
        elif block.strip() and file.suffix.lower() == ".srt":
            start = block.split("\n")[0][:40]
            raise UserError(f"{file}: no 'start --> end' line in the block {start!r}")
    yield recording_id(file.stem), _joined(_TAGS.sub("", cue) for cue in cues)


def _joined(parts: Iterable[str]) -> str:
    return " ".join(word for part in parts for word in part.split())


def recording_id(name: str) -> str:
    """The id of a recording by a name or path of it, as ``transcribe`` makes it."""
    path = Path(name)
    stem = path.stem if path.suffix.lower() in _AUDIO else path.name
    return normal_id("_".join(stem.split()))


_READERS: dict[str, Callable[[Path], Pairs]] = {
    ".json": _read_json,
    ".jsonl": _read_json,
    ".ctm": _read_ctm,
    ".srt": _read_subtitles,
    ".vtt": _read_subtitles,
}
