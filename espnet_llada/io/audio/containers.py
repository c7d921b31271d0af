"""Finds every recording in a file.

Files are joined by ``cat``, by recorders that restart and by stations that stream; a
decoder stops at the end of the first recording and says nothing.
"""

from __future__ import annotations

import math
import re
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import soundfile

from espnet_llada.io.audio.chunks import read_chunked
from espnet_llada.io.audio.mpeg import find_mpeg, read_mpeg
from espnet_llada.io.audio.stream import (
    CHUNKED,
    FLAC,
    NIST,
    BytesFile,
    Stream,
    find_file,
    skip_tags,
    truncated,
)

_STRAY_BYTES = 1441
"""How much of a file may be neither audio nor a tag: the longest frame of an MP3, which
often begins within one or lacks the end of its last. More may be speech."""

_NIST_NUMBERS = re.compile(
    rb"^(sample_count|sample_n_bytes|channel_count) -\w+ (\d{1,18})$", re.MULTILINE
)
_PAGE = re.compile(rb"OggS\x00")
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_UNKNOWN_FRAMES = np.iinfo(np.int64).max


class Found(NamedTuple):
    """What a file holds.

    Attributes:
        streams: the bytes of each recording, as libsndfile reads them, in order.
        notes: what is to be said of the file, by topic.
        lost: bytes that are neither audio nor a tag.
    """

    streams: list[memoryview]
    notes: dict[str, str]
    lost: int


def split_file(name: str, content: memoryview) -> Found:
    """Every recording in a file; the whole file where its format is not known here.

    Args:
        name: for the messages.
        content: the whole file.

    Raises:
        UserError: the file ends before a recording in it does, or more than a little
            of it is neither audio nor a tag.
    """
    streams, notes, lost = found = _scan(name, content)
    if not streams:
        return Found([content], {}, 0)
    if lost > _STRAY_BYTES:
        raise truncated(name, f"{lost} bytes of it are neither audio nor a tag")
    if lost:
        notes["stray"] = f"{lost} bytes of it are neither audio nor a tag; left out"
    if len(streams) > 1:
        notes["joined"] = f"{len(streams)} recordings joined end to end; read as one"
    return found


def _scan(name: str, content: memoryview, in_wav: bool = False) -> Found:
    found = Found([], {}, 0)
    at = skip_tags(content, 0)
    while at < len(content):
        end = at
        first = not (in_wav or found.streams)
        for stream in _read_at(name, content, at, first, in_wav):
            found = _added(found, name, stream)
            end = stream.end
        if end == at:  # nothing that is known begins here
            behind = find_file(content, at + 1, len(content))
            end = len(content) if behind is None else behind
            found = found._replace(lost=found.lost + end - at)
        at = skip_tags(content, end)
    return found


def _added(found: Found, name: str, stream: Stream) -> Found:
    notes = {stream.note: stream.note} if stream.note else {}
    inner = Found([], {}, 0)
    if stream.inner is not None:
        inner = _scan(name, stream.inner, in_wav=True)
    return Found(
        # libsndfile may know what the WAV has in it.
        found.streams + (inner.streams or [stream.content]),
        found.notes | notes,
        found.lost + stream.lost + (inner.lost if inner.streams else 0),
    )


def _read_at(
    name: str, content: memoryview, at: int, first: bool, in_wav: bool
) -> Iterator[Stream]:
    """The recordings that begin here and follow one another; none where none is."""
    if CHUNKED.match(content, at) and not in_wav:
        yield read_chunked(name, content, at)
    elif _PAGE.match(content, at):
        yield from _read_ogg(name, content, at)
    elif FLAC.match(content, at):
        yield _read_decoded(content, at)
    elif NIST.match(content, at):
        yield _read_nist(name, content, at)
    elif (start := find_mpeg(content, at, at + _STRAY_BYTES)) is not None:
        yield from read_mpeg(name, content, at, start)
    elif first:  # what libsndfile alone knows, or no audio
        yield _read_decoded(content, 0)  # some begin with zeros


def _read_nist(name: str, content: memoryview, start: int) -> Stream:
    body = start + int(NIST.match(content, start)[1])
    header = bytes(content[start:body])
    said = dict(_NIST_NUMBERS.findall(header))
    if len(said) < 3 or b",embedded-" in header:
        return Stream(content[start:], len(content))  # libsndfile says what is wrong
    end = body + math.prod(map(int, said.values()))
    if end > len(content):
        raise truncated(name, "its header promises more samples than there are")
    return Stream(content[start:end], end)


def _read_ogg(name: str, content: memoryview, start: int) -> Iterator[Stream]:
    """The links of a chained Ogg file; a flag marks each one's first pages."""
    at, begun = start, False
    while _PAGE.match(content, at):
        begins = content[at + 5 : at + 6] in (b"\x02", b"\x06")
        if begins and begun:
            yield Stream(content[start:at], at)
            start, begun = at, False
        begun = begun or not begins
        body = at + 27 + int.from_bytes(content[at + 26 : at + 27], "big")
        end = body + sum(content[at + 27 : body])
        if end > len(content) or not _is_page(content[at:end]):
            # libogg leaves out such a page, and up to a second of speech with it.
            raise truncated(name, f"its Ogg page at byte {at} is damaged")
        at = end
    yield Stream(content[start:at], at)


def _is_page(page: memoryview) -> bool:
    """Whether its checksum is right: zlib's CRC-32, with mirrored bits."""
    mirrored = b"".join((page[:22], bytes(4), page[26:])).translate(_MIRRORED)
    crc = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return page[22:26] == crc.to_bytes(4, "big").translate(_MIRRORED)


def _read_decoded(content: memoryview, start: int) -> Stream:
    """A recording whose end only its decoder knows: the fewest bytes it decodes from.

    Mostly that is the whole file, which is tested first: without the last byte, the
    last sample cannot be read.
    """
    behind = FLAC.search(content, start + 4)
    file = content[start : behind.start() if behind else len(content)]
    if bytes(file[-128:-125]) == b"TAG":  # ID3v1 has no place in FLAC, but is common
        file = file[:-128]
    frames = _frames(file)
    if frames and _reads(file[:-1], frames, first=frames - 1):
        sizes, whole = range(1, len(file) - 1), file
        least = bisect_left(sizes, True, key=lambda n: _reads(whole[:n], frames))
        file = whole[: 1 + least]
    return Stream(file, start + len(file))


def _frames(file: memoryview) -> int:
    """The length in the header (samples); 0 where the end need not be searched for."""
    try:
        with soundfile.SoundFile(BytesFile(file)) as f:
            known = f.format not in ("MP3", "SDS") and f.frames != _UNKNOWN_FRAMES
            return f.frames if known else 0
    except soundfile.LibsndfileError:
        return 0


def _reads(file: memoryview, frames: int, first: int = 0) -> bool:
    """Whether libsndfile can read all samples from the ``first`` on."""
    try:
        with soundfile.SoundFile(BytesFile(file)) as f:
            if first:  # a decoder that seeks is easily lost in what is behind the end
                f.seek(first)
            blocks = f.blocks(1 << 16, dtype="int16")
            return f.frames == frames == first + sum(map(len, blocks))
    except soundfile.LibsndfileError:
        return False
