"""Files that hold more, less or something else than their header says."""

from __future__ import annotations

import io as bytes_io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from espnet_llada.io.audio import mpeg
from espnet_llada.io.audio import reading as io
from espnet_llada.io.audio.reading import load_audio
from espnet_llada.types import UserError

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "mulaw.wav": ("WAV", "ULAW"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "sph": ("NIST", "PCM_16"),
    "mulaw.sph": ("NIST", "ULAW"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis.ogg": ("OGG", "VORBIS"),
    "opus.ogg": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
ID3V1 = b"TAG" + b"title".ljust(125, b"\0")
ID3V2 = b"ID3\3\0\0\0\0\2\1" + b"title".ljust(257, b"x")
APE = b"APETAGEX" + struct.pack("<IIII8x", 2000, 40, 1, 1 << 31) + b"\0" * 8


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise under a hum, float32 at 16 kHz."""
    samples = np.random.default_rng(seed).normal(0, 0.03, int(seconds * 16_000))
    samples += 0.2 * np.sin(np.arange(len(samples)) * 0.1)
    return samples.astype(np.float32)


def encoded(samples: np.ndarray, kind: str, rate: int = 16_000) -> bytes:
    file = bytes_io.BytesIO()
    container, subtype = FORMATS[kind]
    soundfile.write(file, samples, rate, format=container, subtype=subtype)
    return file.getvalue()


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """``load_audio`` of bytes."""
    monkeypatch.setattr(io, "_said", set())
    path = tmp_path / "a"

    def load(content: bytes) -> np.ndarray:
        path.write_bytes(content)
        return load_audio(path)

    return load


def refused(loaded, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        loaded(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", FORMATS)
def test_joined_files_are_read_as_one(loaded, kind, caplog):
    """Parts of different length, rate, channels, and tags around them."""
    stereo = np.stack([sound(0.4, 1)] * 2, axis=1)
    files = [encoded(sound(1.0), kind), encoded(stereo, kind, 8000)]
    files.append(encoded(sound(0.2, 2), kind))
    alone = [loaded(file) for file in files]
    assert [len(a) for a in alone] == [16_000, 12_800, 3200]
    caplog.clear()
    np.testing.assert_array_equal(loaded(b"".join(files)), np.concatenate(alone))
    assert "3 recordings joined end to end" in caplog.text
    tagged = ID3V1.join(files[:2]) + ID3V1 + ID3V2 + files[2] + APE
    np.testing.assert_array_equal(loaded(tagged), np.concatenate(alone))
    reversed_order = loaded(b"".join(reversed(files)))
    np.testing.assert_array_equal(reversed_order, np.concatenate(alone[::-1]))


@pytest.mark.parametrize("kind", FORMATS)
def test_files_of_other_formats_may_follow(loaded, kind):
    first = encoded(sound(0.5), kind)
    for other in ("wav", "flac", "vorbis.ogg", "mp3"):
        second = encoded(sound(0.3, 1), other)
        expected = np.concatenate([loaded(first), loaded(second)])
        np.testing.assert_array_equal(loaded(first + second), expected)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_neither_audio_nor_a_tag(loaded, kind, caplog):
    file = encoded(sound(0.5), kind)
    alone = loaded(file)
    for tag in (ID3V1, ID3V2, APE, bytes(5000)):
        np.testing.assert_array_equal(loaded(file + tag), alone)
    assert not caplog.records
    np.testing.assert_array_equal(loaded(file + b"garbage." * 9), alone)
    assert "72 bytes of it are neither audio nor a tag" in caplog.text
    refused(loaded, file + b"garbage." * 1000, "8000 bytes of it are neither")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cut_file_is_refused_with_another_behind_it_too(loaded, kind):
    file = encoded(sound(2.0), kind)
    cut = file[: len(file) * 2 // 3]
    refused(loaded, cut, "truncated or corrupt")
    refused(loaded, cut + encoded(sound(1.5, 1), kind), "truncated or corrupt")


def test_chunks_behind_the_samples_are_no_samples(loaded):
    file = encoded(sound(0.5), "wav")
    chunks = b"LIST\5\0\0\0abcde" + b"\0id3 \4\0\0\0abcd"
    twice = file + chunks + file
    np.testing.assert_array_equal(loaded(twice), np.tile(loaded(file), 2))
    refused(loaded, file + file[36:], "16008 bytes of it are neither audio")
    unpadded = file + b"LIST\5\0\0\0abcdeid3 \4\0\0\0abcd"
    np.testing.assert_array_equal(loaded(unpadded), loaded(file))


def with_size(file: bytes, kind: str, size: int) -> bytes:
    """A file whose header says that it has so many bytes of samples."""
    mark, distance, count = {
        "wav": (b"data", 4, 4),
        "rf64": (b"ds64", 16, 8),
        "w64": (b"data", 16, 8),
        "aiff": (b"SSND", 4, 4),
        "caf": (b"data", 4, 8),
        "au": (b".snd", 8, 4),
    }[kind]
    at = file.index(mark) + distance
    order = "big" if kind in ("aiff", "caf", "au") else "little"
    field = (size % 2 ** (8 * count)).to_bytes(count, order)
    return file[:at] + field + file[at + count :]


@pytest.mark.parametrize("kind", ["wav", "rf64", "w64", "aiff", "caf", "au"])
@pytest.mark.parametrize("size", [0, -1])
def test_without_a_length_it_is_read_to_its_end(loaded, kind, size, caplog):
    """A recorder died, or wrote into a pipe."""
    file = encoded(sound(0.5), kind)
    unknown = with_size(file, kind, size)
    alone = loaded(file)
    np.testing.assert_array_equal(loaded(unknown), alone)
    assert "does not say how many samples it has" in caplog.text
    np.testing.assert_array_equal(loaded(unknown + unknown), np.tile(alone, 2))


def test_a_length_that_is_too_small_hides_no_samples(loaded):
    file = with_size(encoded(sound(0.5), "wav"), "wav", 2000)
    refused(loaded, file, "14000 bytes of it are neither audio nor a tag")
    empty = encoded(np.zeros(0), "wav")
    refused(loaded, empty, "holds no samples")
    refused(loaded, empty + b"LIST\4\0\0\0abcd", "holds no samples")


@pytest.mark.parametrize("kind", ["wav", "w64", "rf64", "aiff", "caf", "au"])
def test_a_part_of_a_sample_may_lack(loaded, kind, caplog):
    samples = np.stack([sound(0.5)] * 2, axis=1)
    file = encoded(samples, kind)
    alone = loaded(file)
    for missing in (1, 3):
        np.testing.assert_array_equal(loaded(file[:-missing]), alone[:-1])
    assert "last sample is cut off" in caplog.text
    refused(loaded, file[:-4], "promises more samples")


def in_wav(tag: int, payload: bytes, extensible: bool = False) -> bytes:
    fmt = struct.pack("<HHIIHHH", tag, 1, 16_000, 3000, 1, 0, 0)
    if extensible:
        fmt = struct.pack("<HHIIHHHHIH", 0xFFFE, 1, 16_000, 3000, 1, 0, 22, 0, 0, tag)
        fmt += b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt
    chunks += b"data" + struct.pack("<I", len(payload)) + payload
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


@pytest.mark.parametrize(
    ("tag", "kind"), [(0x55, "mp3"), (0xF1AC, "flac"), (0x674F, "vorbis.ogg")]
)
def test_another_format_in_a_wav(loaded, tag, kind):
    file = encoded(sound(1.0), kind)
    alone = loaded(file)
    wrapped = in_wav(tag, file)
    np.testing.assert_array_equal(loaded(wrapped), alone)
    np.testing.assert_array_equal(loaded(in_wav(tag, file, True)), alone)
    np.testing.assert_array_equal(loaded(with_size(wrapped, "wav", 0)), alone)
    np.testing.assert_array_equal(loaded(wrapped * 2), np.tile(alone, 2))
    np.testing.assert_array_equal(loaded(in_wav(tag, file * 2)), np.tile(alone, 2))
    refused(loaded, wrapped[:-2000], "truncated or corrupt")


def without_count(mp3: bytes) -> bytes:
    """All but the frame that counts the others."""
    return mp3[mpeg._frame_at(memoryview(mp3), 0).end :]


def test_an_mp3_that_does_not_count_its_frames(loaded):
    """libsndfile guesses their number from the first one's size."""
    loud_first = np.concatenate([sound(0.2), 1e-3 * sound(3.0), 3 * sound(1.0)])
    quiet_first = loud_first[::-1].copy()
    for samples in (loud_first, quiet_first):
        file = without_count(encoded(samples, "mp3"))
        heard = loaded(file)
        assert len(samples) <= len(heard) < len(samples) + 3 * 576
        loudest = np.abs(samples).argmax() / 16_000
        assert abs(np.abs(heard).argmax() / 16_000 - loudest) < 1.1
    counted, bare = encoded(loud_first, "mp3"), without_count(encoded(sound(1), "mp3"))
    for joined in (bare + bare, counted + bare, bare + counted):
        parts = [len(loud_first) if joined is not bare + bare else 16_000, 16_000]
        expected = 32_000 if joined == bare + bare else sum(parts)
        assert expected <= len(loaded(joined)) < expected + 6 * 576


def test_an_mp3_that_begins_within_a_frame(loaded, caplog):
    file = without_count(encoded(sound(2.0), "mp3"))
    whole = loaded(file)
    heard = loaded(file[100:])
    assert len(whole) - 3 * 576 < len(heard) < len(whole)
    assert "neither audio nor a tag" in caplog.text


def test_a_damaged_ogg_page_is_not_left_out(loaded):
    file = bytearray(encoded(sound(5.0), "vorbis.ogg"))
    file[len(file) // 2] ^= 1
    refused(loaded, bytes(file), "Ogg page at byte .* damaged")


WHAT_IT_IS = {
    b"<!DOCTYPE html>\n<title>Sign in</title>": "HTML page.*fetch the recording",
    b"\xef\xbb\xbf  <html lang=en>": "HTML page",
    b'{"error": "not found"}': "JSON",
    b"version https://git-lfs.github.com/spec/v1\noid": "Git LFS pointer.*git lfs pull",
    "Datei nicht gefunden: größer".encode(): "text",
    b"PK\3\4\x14\0\0\0": "archive.*unpack it",
    b"\x1f\x8b\x08\0": "compressed file.*unpack it",
    b"%PDF-1.7": "PDF",
    b"\0\0\0\x20ftypM4A \0\0": "MPEG-4.*ffmpeg",
    b"\x1a\x45\xdf\xa3\x9f": "WebM.*ffmpeg",
    b"#!AMR\n\x3c": "AMR.*ffmpeg",
    b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\n": "sph2pipe",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "Windows Media",
    b"\xff\xf1\x50\x80\x01\x3f\xfc": "AAC",
    b"RIFF\0\1\0\0AVI LIST": "AVI",
    bytes(3000): "zeros.*copy it again",
    in_wav(0x83, b"abcdefgh" * 99): "G.729 in a WAV.*ffmpeg",
    in_wav(0x55, b"abcdefgh" * 99): "MP3 in a WAV",
}


@pytest.mark.parametrize(("content", "message"), WHAT_IT_IS.items())
def test_what_is_no_audio_is_named(loaded, content, message):
    refused(loaded, content, f"a: not readable as audio.*{message}")


@pytest.mark.parametrize("kind", ["AVR", "IRCAM", "MAT4", "MPC2K", "PAF", "PVF", "VOC"])
def test_formats_that_are_read_to_the_end_of_any_file_are_refused(loaded, kind):
    """Cut they would be short, joined they would have a header as samples."""
    file = bytes_io.BytesIO()
    soundfile.write(file, sound(0.5), 16_000, format=kind, subtype="PCM_16")
    refused(loaded, file.getvalue(), f"it is {kind}.*nobody can tell.*convert it")


def test_the_name_of_a_file_says_nothing(tmp_path):
    for name in ("a.raw", "a.mp3", "a.txt"):
        path = tmp_path / name
        path.write_bytes(encoded(sound(0.5), "wav"))
        assert load_audio(path).shape == (8000,)


def mixed(loaded, *channels: np.ndarray) -> np.ndarray:
    file = bytes_io.BytesIO()
    soundfile.write(file, np.stack(channels, 1), 16_000, "FLOAT", format="WAV")
    return loaded(file.getvalue())


def test_channels_that_cancel_are_not_averaged(loaded, caplog):
    speech, noise = sound(1.0), np.float32(0.1) * sound(1.0, 1)[::-1]
    silence = np.zeros_like(speech)
    np.testing.assert_array_equal(mixed(loaded, speech, -speech), speech)
    assert "its 2 channels cancel one another; channel 1 alone" in caplog.text
    louder = -1.3 * speech
    np.testing.assert_array_equal(mixed(loaded, speech, louder), louder)
    np.testing.assert_array_equal(mixed(loaded, speech, -speech, silence), speech)
    np.testing.assert_array_equal(mixed(loaded, noise, -noise, speech, -speech), speech)
    nearly = mixed(loaded, speech + noise / 9, -speech)
    assert np.abs(nearly).max() > 0.9 * np.abs(speech).max()


def test_channels_without_anything_in_common_are_averaged(loaded, caplog):
    one, other = np.random.default_rng(0).normal(0, 0.1, (2, 16_000)).astype("f")
    silence = np.zeros_like(one)
    for channels in (
        (one, one),
        (one, other),
        (one, silence),
        (one, *[silence] * 7),
        (one, one, -one),
        (one, 0.1 * other),
        (one + 0.5, one - 0.5),  # opposite offsets are no sound
        (silence, silence),
    ):
        mean = np.mean(channels, axis=0, dtype=np.float32)
        np.testing.assert_allclose(mixed(loaded, *channels), mean, atol=1e-6)
    assert "cancel" not in caplog.text


BASES = {kind: encoded(sound(0.12), kind) for kind in FORMATS}
BASES["mp3 in a wav"] = in_wav(0x55, BASES["mp3"])
BASES["joined"] = BASES["mp3"] + BASES["flac"] + BASES["opus.ogg"] + BASES["wav"]


@st.composite
def mutated(draw) -> bytes:
    """An audio file with bytes changed, left out, put in or moved."""
    content = bytearray(BASES[draw(st.sampled_from(sorted(BASES)))])
    place = st.integers(0, 300) | st.integers(0, len(content) - 1)
    for _ in range(draw(st.integers(1, 4))):
        at = min(draw(place), len(content))
        new = draw(
            st.binary(max_size=9)
            | st.sampled_from(
                [bytes(4), b"\xff" * 4, b"OggS\0\2", b"ID3\4\0\0\0\0\1\0"]
            )
            | st.sampled_from([content[at : at + 400], b"\0" * 2000, b"\xff\xfb" * 99])
        )
        gone = draw(st.sampled_from([0, len(new), 1, 50, 5000]))
        content[at : at + gone] = new
    return bytes(content)


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=mutated())
@example(content=b"")
@example(content=b"\0")
def test_any_bytes_are_samples_or_one_line(tmp_path: Path, content: bytes):
    path = tmp_path / "x"
    path.write_bytes(content)
    try:
        samples = load_audio(path)
    except UserError as e:
        assert str(e).startswith(str(path)) and "\n" not in str(e)
    else:
        assert samples.dtype == np.float32 and samples.ndim == 1 and len(samples)
        assert np.abs(samples).max() <= 1
