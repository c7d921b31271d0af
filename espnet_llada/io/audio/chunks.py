"""Finds where the samples of WAV, AIFF, AU, CAF, … files begin and end.

libsndfile takes what the headers say of that for at most so much; so a size of 0, left
by a recorder that died, means an empty recording to it, and a file that was cut means a
short one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from espnet_llada.io.audio.stream import Stream, find_file, truncated
from espnet_llada.types import UserError

_UNKNOWN_BYTES = 0x7FFF0000  # and more: what sox and ffmpeg write into a pipe


class _Layout(NamedTuple):
    """How a container lays out its chunks.

    Attributes:
        first: where the first chunk begins.
        id_bytes, size_bytes: what a chunk begins with, its id and its size.
        order: of the size's bytes.
        pad: chunks begin at multiples of it.
    """

    first: int
    id_bytes: int
    size_bytes: int
    order: str
    pad: int

    def number(self, content: memoryview, at: int) -> int:
        """The size field at an offset."""
        field = bytes(content[at : at + self.size_bytes])
        return int.from_bytes(field, self.order)


_RIFF = _Layout(12, 4, 4, "little", 2)
_FORM = _Layout(12, 4, 4, "big", 2)  # AIFF and 8SVX
_CAF = _Layout(8, 4, 8, "big", 1)
_AU = _Layout(0, 0, 4, "big", 1)  # which has none, but a size all the same
_W64 = _Layout(40, 16, 8, "little", 8)
_LAYOUTS = {b"RIFX": _FORM, b"FORM": _FORM, b"caff": _CAF, b".snd": _AU, b"riff": _W64}

_CHUNK_ID = re.compile(
    # Not what may begin behind the last chunk: another file, or a tag.
    rb"(?!RIF[FX]|RF64|BW64|FORM|caff|riff\x2e|fLaC|OggS|\.snd|TAG|APET|ID3)[ -~]{4}"
)
_SAMPLES = (b"data", b"SSND", b"BODY")


class _Chunk(NamedTuple):
    """Its id, the offset of its content, and the size written in its header."""

    id: bytes
    body: int
    size: int


class _Samples(NamedTuple):
    """The chunk of the samples, and what other chunks say of it.

    Attributes:
        codec: WAV's format tag; 0 in other containers.
        frame: bytes of one sample in all channels.
        body, size: where the samples begin, and how many bytes are said to follow.
        field: where that is written.
    """

    codec: int
    frame: int
    body: int
    size: int
    field: slice


def read_chunked(name: str, content: memoryview, start: int) -> Stream:
    """The file that begins at ``start``, where ``CHUNKED`` matches.

    Args:
        name: for the message.
        content: the bytes around it.
        start: where it begins.

    Raises:
        UserError: it ends before its samples do, or has more than it can say.
    """
    layout = _LAYOUTS.get(bytes(content[start : start + 4]), _RIFF)
    samples = _find_samples(content, start, layout)
    if samples is None:  # libsndfile says what is wrong with it
        return Stream(content[start:], len(content))
    note = ""
    there = len(content) - samples.body
    if _is_unknown(samples, content, layout):
        behind = find_file(content, samples.body + 1, len(content))
        stop = end = len(content) if behind is None else behind
        file = _with_size(name, content[start:end], start, samples, layout)
        note = "its header does not say how many samples it has; read to its end"
    elif samples.size > there:
        if samples.size - there >= samples.frame:
            raise truncated(name, "its header promises more samples than there are")
        stop = end = len(content)
        file = content[start:]
        note = "its last sample is cut off and left out"
    else:
        stop = samples.body + samples.size
        end = _skip_chunks(content, stop, layout)
        file = content[start:end]
    inner = content[samples.body : stop] if samples.codec in CODECS else None
    return Stream(file, end, note, inner=inner)


def codec_of(content: memoryview) -> str:
    """The codec of a WAV that libsndfile cannot read; "" if it can."""
    if content[:4] != b"RIFF":
        return ""
    samples = _find_samples(content, 0, _RIFF)
    return CODECS.get(samples.codec, "") if samples else ""


def _is_unknown(samples: _Samples, content: memoryview, layout: _Layout) -> bool:
    if samples.size >= _UNKNOWN_BYTES:
        return samples.size > len(content) - samples.body
    nothing = 4 if layout is _CAF else 0  # CAF counts its edits before the samples
    if samples.size > nothing:
        return False
    # A size of 0 is true where there is nothing but chunks from there to the end.
    body = samples.body + nothing
    return len(content) - _skip_chunks(content, body, layout) >= layout.pad


def _find_samples(content: memoryview, start: int, layout: _Layout) -> _Samples | None:
    if layout is _AU:
        return _au_samples(content, start)
    codec, frame, long_size = 0, 1, 0
    at = start + layout.first
    while chunk := _chunk_at(content, at, layout):
        if chunk.id == b"ds64":  # RF64: 64-bit sizes of the file and of its samples
            long_size = chunk.body + 8
        elif chunk.id in _FORMATS:
            codec, frame = _FORMATS[chunk.id](content, chunk.body, layout)
        elif chunk.id in _SAMPLES:
            if not long_size:
                field = slice(at + layout.id_bytes, chunk.body)
                return _Samples(codec, frame, chunk.body, chunk.size, field)
            field = slice(long_size, long_size + 8)
            size = int.from_bytes(content[field], "little")
            return _Samples(codec, frame, chunk.body, size, field)
        end = chunk.body + max(chunk.size, 0)
        at = _next(content, min(end, len(content)), layout)
    return None


def _au_samples(content: memoryview, start: int) -> _Samples:
    fields = (content[start + at : start + at + 4] for at in (4, 8, 12, 20))
    offset, size, encoding, channels = (int.from_bytes(f, "big") for f in fields)
    width = {3: 2, 4: 3, 5: 4, 6: 4, 7: 8}.get(encoding, 1)
    field = slice(start + 8, start + 12)
    return _Samples(0, width * channels, start + offset, size, field)


def _chunk_at(content: memoryview, at: int, layout: _Layout) -> _Chunk | None:
    body = at + layout.id_bytes + layout.size_bytes
    if layout is _AU or body > len(content) or not _CHUNK_ID.match(content, at):
        return None
    size = layout.number(content, at + layout.id_bytes)
    if layout is _W64:  # which counts the header
        size -= body - at
    return _Chunk(bytes(content[at : at + 4]), body, size)


def _next(content: memoryview, end: int, layout: _Layout) -> int:
    """Offset of the next chunk; some writers do not pad."""
    return end if _CHUNK_ID.match(content, end) else end + -end % layout.pad


def _skip_chunks(content: memoryview, end: int, layout: _Layout) -> int:
    """The end of the last of the chunks from ``end`` on."""
    while chunk := _chunk_at(content, _next(content, end, layout), layout):
        if chunk.id in _SAMPLES or not 0 <= chunk.size <= len(content) - chunk.body:
            break  # more samples, which libsndfile does not read; no chunk
        end = chunk.body + chunk.size
    return end


def _with_size(
    name: str, file: memoryview, start: int, samples: _Samples, layout: _Layout
) -> memoryview:
    """A copy of the file whose header has the true size of its samples."""
    size = start + len(file) - samples.body
    if layout is _W64:
        size += layout.id_bytes + layout.size_bytes
    first, last = samples.field.start - start, samples.field.stop - start
    if size >= 1 << 8 * (last - first):
        raise UserError(f"{name}: has more samples than such a file can; split it")
    field = size.to_bytes(last - first, layout.order)
    return memoryview(b"".join((file[:first], field, file[last:])))


def _fmt(content: memoryview, at: int, layout: _Layout) -> tuple[int, int]:
    """WAV's format tag, and bytes of a sample in all channels."""

    def number(offset: int) -> int:
        return int.from_bytes(content[at + offset : at + offset + 2], layout.order)

    extensible = number(0) == 0xFFFE  # the tag is then the head of a GUID
    return number(24 if extensible else 0), number(12)


def _comm(content: memoryview, at: int, layout: _Layout) -> tuple[int, int]:
    channels, bits = content[at : at + 2], content[at + 6 : at + 8]
    width = -(-int.from_bytes(bits, "big") // 8)
    return 0, int.from_bytes(channels, "big") * width


def _desc(content: memoryview, at: int, layout: _Layout) -> tuple[int, int]:
    return 0, int.from_bytes(content[at + 16 : at + 20], "big")


_FORMATS = {b"fmt ": _fmt, b"COMM": _comm, b"desc": _desc}

CODECS = {
    **dict.fromkeys((0x00FF, 0x1600, 0x1610, 0x706D, 0xA106), "AAC"),
    **dict.fromkeys((0x0160, 0x0161, 0x0162, 0x0163), "WMA"),
    **{0x0022: "TrueSpeech", 0x0042: "G.723.1", 0x0083: "G.729", 0xA109: "Speex"},
    **{0x0050: "MPEG layer 2", 0x0055: "MP3", 0x0270: "ATRAC3", 0x2000: "AC-3"},
    **{0x674F: "Vorbis", 0x704F: "Opus", 0xF1AC: "FLAC"},
}
"""WAV's format tags of what libsndfile does not read inside a WAV."""
