"""One recording in the bytes of a file, and the tags around it."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from espnet_llada.types import UserError


class Stream(NamedTuple):
    """One recording in a file.

    Attributes:
        content: its bytes, as libsndfile shall read them.
        end: where it ends in the file.
        note: what is wrong with it, though it can be read; empty if nothing.
        lost: bytes within it that are no audio.
        inner: of a WAV around another format, the bytes of that one.
    """

    content: memoryview
    end: int
    note: str = ""
    lost: int = 0
    inner: memoryview | None = None


_FAR = 1 << 62  # what libsndfile's offsets hold


class BytesFile:
    """Bytes as the file that soundfile reads, not copied as by ``io.BytesIO``.

    libsndfile seeks anywhere in a broken file. Nothing is raised for that, since what
    a callback raises is printed and not passed on.
    """

    def __init__(self, content: memoryview):
        self._content = content
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_CUR: self._at, os.SEEK_END: len(self._content)}
        self._at = min(max(0, origin.get(whence, 0) + offset), _FAR)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer) -> int:
        found = self._content[self._at : self._at + len(buffer)]
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


# Each begins with letters that `re` looks for at the speed of memory, unlike for one
# expression of several.
_CHUNKED = (
    rb"RIFF....WAVE",
    rb"RIFX....WAVE",
    rb"RF64....WAVE",
    rb"BW64....WAVE",
    rb"FORM....AIF[FC]",
    rb"FORM....(?:8SVX|16SV)",
    rb"caff\x00\x01",
    rb"\.snd\x00",
    rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00",  # Sony Wave64
)
CHUNKED = re.compile(b"|".join(_CHUNKED), re.DOTALL)
"""The beginning of a file whose header says how many bytes of samples follow."""

FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
"""Its first block is always the same one."""

NIST = re.compile(rb"NIST_1A\n *(\d{1,7})\n")
"""LDC's SPHERE; the number is the size of its header."""

_FILES = [
    *(re.compile(magic, re.DOTALL) for magic in _CHUNKED),
    FLAC,
    NIST,
    re.compile(rb"OggS\x00\x02"),
]
_TAG = re.compile(
    rb"\x00+|TAG\+.{223}|TAG.{125}"  # padding, ID3v1
    rb"|ID3[\x02-\x04].(?P<flags>.)(?P<id3>[\x00-\x7f]{4})"
    rb"|APETAGEX.{4}(?P<ape>.{4}).{4}(?P<ape_flags>.{4}).{8}"
    rb"|LYRICSBEGIN.{0,65536}?(?:LYRICSEND|LYRICS200)",
    re.DOTALL,
)


def find_file(content: memoryview, start: int, stop: int) -> int | None:
    """Offset of the first file header between two offsets (MP3 has none)."""
    found = [magic.search(content, start, stop) for magic in _FILES]
    return min((match.start() for match in found if match), default=None)


def skip_tags(content: memoryview, at: int) -> int:
    """The offset behind tags (ID3, APE, …) and padding that begin at ``at``."""
    while tag := _TAG.match(content, at):
        end = tag.end()
        if size := tag["id3"]:
            end += size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3]
            end += 10 * (tag["flags"][0] >> 4 & 1)  # a footer
        elif size := tag["ape"]:
            is_header = tag["ape_flags"][3] & 0x20  # else the footer, the tag's end
            end += int.from_bytes(size, "little") if is_header else 0
        if end > len(content):  # no tag, or not all of it
            break
        at = end
    return at


def truncated(name: str, detail: str) -> UserError:
    """The error for a recording that lacks some of its samples."""
    return UserError(f"{name}: truncated or corrupt ({detail}); copy it again")
