"""Finds the frames of MP3 files, also of several joined end to end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from espnet_llada.io.audio.stream import Stream, find_file, skip_tags, truncated

# kbit/s by the header's four bits, for (MPEG-1?, layer).
_LOW = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_KBPS = {
    (True, 1): tuple(range(32, 449, 32)),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    **{(False, 2): _LOW, (False, 3): _LOW},
}
_RATES = (44_100, 48_000, 32_000)
_HALVED = {3: 0, 2: 1, 0: 2}  # the version's two bits: MPEG-1, 2, 2.5
_SYNC = re.compile(rb"\xff[\xe2-\xe7\xf2-\xff]")
_WRONG_BY = 2  # frames: some encoders count the one that says how many there are


class _Kind(NamedTuple):
    """What all frames of a file have in common."""

    mpeg1: bool
    layer: int
    rate: int
    mono: bool


class _Frame(NamedTuple):
    """Where a frame begins and ends, and what it is like."""

    start: int
    end: int
    kind: _Kind


def _frame_at(content: memoryview, at: int) -> _Frame | None:
    head = int.from_bytes(content[at : at + 4], "big")
    version, layer = head >> 19 & 3, 4 - (head >> 17 & 3)
    bitrate, rate = head >> 12 & 15, head >> 10 & 3
    if head >> 21 != 0x7FF or version == 1 or layer == 4 or rate == 3:
        return None
    if not 0 < bitrate < 15:  # 0: a length that is not said
        return None
    mpeg1 = version == 3
    kind = _Kind(mpeg1, layer, _RATES[rate] >> _HALVED[version], head >> 6 & 3 == 3)
    bits, padding = 1000 * _KBPS[mpeg1, layer][bitrate - 1], head >> 9 & 1
    if layer == 1:
        length = 4 * (12 * bits // kind.rate + padding)
    else:
        samples = 1152 if mpeg1 or layer == 2 else 576
        length = samples // 8 * bits // kind.rate + padding
    return _Frame(at, at + length, kind)


def _begins_at(content: memoryview, at: int) -> _Frame | None:
    """The frame at an offset, if one like it or the end of the file follows."""
    frame = _frame_at(content, at)
    if frame is None or frame.end > len(content):
        return None
    behind = _frame_at(content, frame.end)
    same = behind is not None and behind.kind == frame.kind
    return frame if same or frame.end == len(content) else None


def find_mpeg(content: memoryview, start: int, stop: int) -> int | None:
    """Offset of the first frame that one like it follows."""
    for found in _SYNC.finditer(content, start, stop):
        frame = _begins_at(content, found.start())
        if frame and _begins_at(content, frame.end):
            return frame.start
    return None


def read_mpeg(name: str, content: memoryview, at: int, start: int) -> Iterator[Stream]:
    """The files whose frames follow one another.

    A file begins with the frame that counts its frames, if any, or where frames are of
    another kind. Only frames are handed on: in what else is there, libmpg123 looks for
    frames with less care.

    Args:
        name: for the message.
        content: all of the file.
        at: where what is not known begins.
        start: where the first frame begins.

    Raises:
        UserError: a file has fewer frames than it says.
    """
    frames: list[_Frame] = []
    lost, at = start - at, start
    while at < len(content):
        frame = _frame_at(content, at)
        if frame and frames and frame.kind != frames[0].kind:
            frame = _begins_at(content, at)
        if frame and frame.end <= len(content):
            other = frames and frame.kind != frames[0].kind
            if other or (frames and _count(content, frame) is not None):
                yield _stream(name, content, frames, at, lost)
                frames, lost = [], 0
            frames.append(frame)
            at = frame.end
            continue
        within = find_mpeg(content, frames[-1].start + 1, at)
        if within is not None:  # the last frame was cut, and the next file joined to it
            lost += within - frames.pop().start
            at = within
        elif (behind := skip_tags(content, at)) > at:
            at = behind
        else:
            found = find_mpeg(content, at + 1, len(content))
            if found is None or find_file(content, at, found) is not None:
                break
            lost += found - at
            at = found
    yield _stream(name, content, frames, frames[-1].end, lost)


def _stream(
    name: str, content: memoryview, frames: list[_Frame], end: int, lost: int
) -> Stream:
    count = _count(content, frames[0])
    if count is not None:
        frames_there = len(frames) - 1
        if frames_there < count - _WRONG_BY:
            detail = f"{count - frames_there} of its {count} frames are not there"
            raise truncated(name, detail)
        if frames_there > count + _WRONG_BY:  # of a file that says nothing of itself
            frames, count = frames[1:], None
    first, last = frames[0].start, frames[-1].end
    if sum(frame.end - frame.start for frame in frames) == last - first:
        parts = [content[first:last]]
    else:
        parts = [content[frame.start : frame.end] for frame in frames]
    if count is None and frames[0].kind.layer == 3:  # others are all of one size
        parts.insert(0, _counting_frame(content, frames))
    audio = parts[0] if len(parts) == 1 else memoryview(b"".join(parts))
    return Stream(audio, end, lost=lost)


def _counting_frame(content: memoryview, frames: list[_Frame]) -> memoryview:
    """A Xing header with the number of frames, for a file without one.

    libsndfile would estimate it from the size of the first frame, and read no more.
    """
    start = frames[0].start
    plain = int.from_bytes(content[start : start + 4], "big") & ~0xF200 | 0x10000
    side = 4 + _side_bytes(frames[0].kind)
    for bitrate in range(1, 15):
        head = (plain | bitrate << 12).to_bytes(4, "big")
        frame = _frame_at(memoryview(head), 0)
        if frame and frame.end >= side + 12:
            break
    body = head + bytes(side - 4) + b"Xing\0\0\0\1" + len(frames).to_bytes(4, "big")
    return memoryview(body.ljust(frame.end, b"\0"))


def _side_bytes(kind: _Kind) -> int:
    return ((17, 32) if kind.mpeg1 else (9, 17))[not kind.mono]


def _count(content: memoryview, frame: _Frame) -> int | None:
    """The number of frames in a Xing or VBRI header, 0 if it has none.

    None for any other frame.
    """
    kind = frame.kind
    if kind.layer != 3:  # which alone has such frames
        return None
    at = frame.start + 4 + _side_bytes(kind)
    mark = bytes(content[at : at + 12])
    if mark[:4] in (b"Xing", b"Info"):
        return int.from_bytes(mark[8:], "big") if mark[7] & 1 else 0
    at = frame.start + 4 + 32
    if bytes(content[at : at + 4]) == b"VBRI":
        return int.from_bytes(content[at + 14 : at + 18], "big")
    return None
