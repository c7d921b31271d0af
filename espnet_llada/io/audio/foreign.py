"""Names the format of a file that libsndfile cannot read."""

from __future__ import annotations

import re

from espnet_llada.io.audio.chunks import codec_of
from espnet_llada.types import SAMPLE_RATE, UserError

_CONVERT = f"convert it to WAV: ffmpeg -i IN -ac 1 -ar {SAMPLE_RATE} OUT.wav"
_SPHERE = "convert it to WAV: sph2pipe -f wav IN OUT.wav"
_FETCH = "fetch the recording itself"
_UNPACK = "unpack it and name a recording in it"
_KINDS = (
    (rb"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull`"),
    (rb"\s*<(?:!doctype|html|head|body)\b", "an HTML page", _FETCH),
    (rb"\s*<\?xml|\s*<[a-z]", "XML", _FETCH),
    (rb'\s*[{[]\s*["{\[\d]', "JSON", _FETCH),
    (rb"%PDF", "a PDF", _FETCH),
    (rb"\x89PNG|\xff\xd8\xff|GIF8", "a picture", _FETCH),
    (rb"PK\x03\x04|7z\xbc\xaf|Rar!", "an archive", _UNPACK),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "a compressed file", _UNPACK),
    (rb".{257}ustar", "an archive", _UNPACK),
    (rb"....ftyp", "MPEG-4", _CONVERT),
    (rb"\x1a\x45\xdf\xa3", "Matroska or WebM", _CONVERT),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media", _CONVERT),
    (rb"RIFF....AVI ", "an AVI video", _CONVERT),
    (rb"NIST_1A.*,embedded-", "SPHERE that is compressed", _SPHERE),
    (rb"#!AMR", "AMR", _CONVERT),
    (rb".?#!SILK", "SILK", _CONVERT),
    (rb"wvpk", "WavPack", _CONVERT),
    (rb"MAC ", "Monkey's Audio", _CONVERT),
    (rb"MThd", "MIDI, notes without sound", _FETCH),
    (rb"\xff[\xf0\xf1\xf8\xf9]", "AAC", _CONVERT),
)
_BEGINNING = 512


def not_audio(name: str, content: memoryview, detail: str) -> UserError:
    """The error for a file that is no audio, or of an unsupported format.

    Args:
        name: of the file.
        content: its bytes.
        detail: what libsndfile says, in case nothing better is known.
    """
    what, mend = _describe(content, detail)
    return UserError(f"{name}: not readable as audio ({what}); {mend}")


def _describe(content: memoryview, detail: str) -> tuple[str, str]:
    if codec := codec_of(content):
        return f"{codec} in a WAV", _CONVERT
    head = bytes(content[:_BEGINNING])
    for magic, what, mend in _KINDS:
        if re.match(magic, head.removeprefix(b"\xef\xbb\xbf"), re.DOTALL | re.I):
            return f"it is {what}", mend
    if not head.strip(b"\0"):
        return "it begins with zeros, as a copy does that broke off", "copy it again"
    text = head.decode("utf-8", "ignore")  # a character may be cut in two
    if len(text.encode()) > len(head) - 4 and "".join(text.split()).isprintable():
        return "it is text", _FETCH
    return detail, _CONVERT
