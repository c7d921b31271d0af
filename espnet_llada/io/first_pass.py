"""Reads transcripts as other recognisers write them, for deliberation.

Kaldi's ``text``; a decoding directory of ESPnet (``1best_recog/text``) or of ours; JSON
of Whisper, faster-whisper and ``espnet-llada transcribe --format json``; CTM; SRT and
WebVTT; Whisper's TSV and TXT. The suffix decides, a file with none of these is Kaldi's,
and so is a TXT but for one with the name of a recording. A JSON, SRT, VTT, TSV or TXT
of one recording has its name: ``a.json`` is of ``a.flac``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

from espnet_llada.io.files import read_text_file
from espnet_llada.io.kaldi.table import normal_id, read_table
from espnet_llada.io.schema import check_plain
from espnet_llada.types import UserError

_IN_DIRECTORY = (
    *("text", "1best_recog/text", "output.*/1best_recog/text"),
    *("logdir/output.*/1best_recog/text", "*/text"),
    *("*.json", "ctm", "*.ctm", "*.srt", "*.vtt", "*.tsv", "*.txt"),
)
"""What is read of a directory: the first of these that there is."""

_AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".sph", ".aiff")
_TAGS = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")  # of subtitles: <i>, <v Name>, {\an8}
_NO_WORDS = ("<eps>", "@")  # of a CTM
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d{1,6})?)", re.ASCII)
_LATEST = 1e7  # s; what is above is no time in a recording

Span = tuple[float, float]
"""Start and end, in seconds from the beginning of the recording."""


@dataclass(frozen=True)
class TimedText:
    """A transcript with the times that its recogniser has written.

    Attributes:
        text: the transcript.
        words: span of each of its words; empty if unknown.
        cues: (start, end, number of words) of its segments; empty if unknown.
    """

    text: str
    words: tuple[Span, ...] = ()
    cues: tuple[tuple[float, float, int], ...] = ()


Pairs = Iterator[tuple[str, TimedText]]


def read_first_pass(path: str | Path, utt_ids: Iterable[str]) -> dict[str, str]:
    """The texts of ``read_timed_first_pass``, without times."""
    found = read_timed_first_pass(path, utt_ids)
    return {utt_id: timed.text for utt_id, timed in found.items()}


def read_timed_first_pass(
    path: str | Path, utt_ids: Iterable[str]
) -> dict[str, TimedText]:
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
    utt_ids = list(utt_ids)
    texts: dict[str, TimedText] = {}
    for file in _files(Path(path), utt_ids):
        for utt_id, timed in _reader(file, utt_ids)(file):
            if texts.setdefault(utt_id, timed).text != timed.text:
                raise UserError(
                    f"{file}: another transcript of '{utt_id}' is in {path} too; name "
                    "the text of one set"
                )
    missing = [u for u in utt_ids if u not in texts]
    if missing:
        there = f", but one for '{next(iter(texts))}'" if texts else ""
        raise UserError(
            f"{path}: no transcript for {len(missing)} utterances, the first is "
            f"'{missing[0]}'{there}; run the first pass on the same set"
        )
    return texts


def _files(path: Path, utt_ids: Sequence[str]) -> list[Path]:
    if not path.is_dir():
        return [path]
    for pattern in _IN_DIRECTORY:
        files = sorted(file for file in path.glob(pattern) if file.is_file())
        if pattern == "*.txt":  # there may be others
            files = [file for file in files if recording_id(file.stem) in utt_ids]
        if files:
            return files
    raise UserError(
        f"{path}: no transcripts in it (*/text, *.json, *.ctm, *.srt, *.vtt, *.tsv); "
        "name a decoded directory or a file"
    )


def _reader(file: Path, utt_ids: Sequence[str]) -> Callable[[Path], Pairs]:
    suffix = ".ctm" if file.name == "ctm" else file.suffix.lower()
    if suffix == ".txt" and recording_id(file.stem) in utt_ids:
        return _read_lines
    return _READERS.get(suffix, _read_kaldi)


def _read_kaldi(file: Path) -> Pairs:
    for utt_id, text in read_table(file).items():
        yield utt_id, TimedText(text)  # word for word, and space for space


def _read_lines(file: Path) -> Pairs:
    """Whisper's TXT: a line for each segment."""
    yield recording_id(file.stem), TimedText(_joined([read_text_file(file, "TXT")]))


def _read_tsv(file: Path) -> Pairs:
    """Whisper's TSV: start and end in ms, and the text of each segment."""
    cues = []
    for number, line in enumerate(read_text_file(file, "TSV").splitlines(), 1):
        cells = line.split("\t", 2)
        if not line.strip() or (number == 1 and cells[:2] == ["start", "end"]):
            continue
        try:
            start, end, text = cells
            cues.append((int(start) / 1000, int(end) / 1000, text))
        except ValueError as e:
            raise UserError(
                f"{file}:{number}: expected start and end in ms and a text, between "
                "tabs, as Whisper writes them"
            ) from e
    yield recording_id(file.stem), _of_cues(cues)


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
            yield recording_id(item["id"]), _json_timed(file, [item])
        return
    yield recording_id(file.stem), _json_timed(file, many)


def _json_timed(file: Path, items: Sequence[dict[str, Any]]) -> TimedText:
    """The text of a recording, or of its segments, and the times that are of it."""
    text = _joined(_json_text(file, item) for item in items)
    segments = items
    words = [word for item in items for word in _list(item.get("words"))]
    if len(items) == 1 and isinstance(items[0].get("segments"), list):
        segments = [s for s in items[0]["segments"] if isinstance(s, dict)]
        words = words or [w for s in segments for w in _list(s.get("words"))]
    return TimedText(text, _json_words(words, text), _json_cues(segments, text))


def _json_words(words: Sequence[Any], text: str) -> tuple[Span, ...]:
    found, names = [], []
    for word in words:
        name = word.get("word") if isinstance(word, dict) else None
        span = _span(word) if isinstance(name, str) else None
        if span is None:
            return ()
        found.append(span)
        names.append(" ".join(name.split()))
    return tuple(found) if names == text.split() else ()


def _json_cues(
    segments: Sequence[dict[str, Any]], text: str
) -> tuple[tuple[float, float, int], ...]:
    spans = [_span(segment) for segment in segments]
    parts = [segment.get("text") for segment in segments]
    if None in spans or not all(isinstance(part, str) for part in parts):
        return ()
    if _joined(parts) != text:
        return ()
    counts = [len(part.split()) for part in parts]
    return tuple((*s, n) for s, n in zip(spans, counts, strict=True))


def _span(item: dict[str, Any]) -> Span | None:
    ends = item.get("start"), item.get("end")
    if not all(type(t) in (int, float) and 0 <= t < _LATEST for t in ends):
        return None
    return float(ends[0]), float(max(ends))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


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
    words: dict[str, list[tuple[float, float, str]]] = {}
    for number, line in enumerate(read_text_file(file, "CTM").splitlines(), 1):
        if not line.strip() or line.startswith((";;", "#")):
            continue
        cells = line.split()
        try:
            name, _, start, duration, word = cells[:5]
            start, duration = float(start), float(duration)
        except ValueError as e:
            raise UserError(
                f"{file}:{number}: expected 'recording channel start duration word'"
            ) from e
        if word.startswith("<ALT"):
            raise UserError(f"{file}:{number}: has alternatives; keep one of them")
        own = words.setdefault(recording_id(name), [])
        if word not in _NO_WORDS:
            own.append((start, start + max(duration, 0.0), word))
    for name, found in words.items():
        found.sort(key=lambda word: word[0])
        spans = tuple((start, end) for start, end, _ in found)
        fits = all(0 <= start < end + 1 < _LATEST for start, end in spans)
        yield name, TimedText(" ".join(w for *_, w in found), spans if fits else ())


def _read_subtitles(file: Path) -> Pairs:
    """SRT or WebVTT: the lines below each time."""
    blocks = re.split(r"\n[ \t]*\n", read_text_file(file, "SRT").replace("\r", ""))
    cues, timed, suffix = [], True, file.suffix.lower()
    for block in blocks:
        before, arrow, after = block.partition("-->")
        if arrow:
            times, _, text = after.partition("\n")
            ends = _clock(before.split("\n")[-1]), _clock(times)
            timed = timed and None not in ends
            text = _TAGS.sub("", text)
            cues.append((*ends, unescape(text) if suffix == ".vtt" else text))
        elif block.strip() and suffix == ".srt":
            start = block.split("\n")[0][:40]
            raise UserError(f"{file}: no 'start --> end' line in the block {start!r}")
    found = _of_cues(cues) if timed else TimedText(_joined(c for *_, c in cues))
    yield recording_id(file.stem), found


def _clock(text: str) -> float | None:
    """Seconds of the first ``[hours:]minutes:seconds`` in a line."""
    found = _CLOCK.search(text)
    if found is None:
        return None
    hours, minutes, seconds = found.groups()
    return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds.replace(",", "."))


def _of_cues(cues: Sequence[tuple[float, float, str]]) -> TimedText:
    text = _joined(text for *_, text in cues)
    fit = all(0 <= start <= end < _LATEST for start, end, _ in cues)
    counted = tuple((start, end, len(text.split())) for start, end, text in cues)
    return TimedText(text, (), counted if fit else ())


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
    ".tsv": _read_tsv,
}
