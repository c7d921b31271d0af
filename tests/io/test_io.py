from __future__ import annotations

import logging
import os

import kaldiio
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from espnet_llada.io.audio import reading as io
from espnet_llada.io.audio.reading import load_audio
from espnet_llada.io.waveform import split_long
from espnet_llada.types import UserError


def tone(seconds: float, rate: int = 16_000, hz: float = 440.0) -> np.ndarray:
    t = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(samples)).astype(np.float32)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(io, "_said", set())


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_wav_keeps_samples(tmp_path, subtype):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.5), 16_000, subtype=subtype)
    loaded = load_audio(path)
    assert loaded.dtype == np.float32 and loaded.shape == (8000,)
    np.testing.assert_allclose(loaded, tone(0.5), atol=1 / 32768)


def test_flac_keeps_samples(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(0.5), 16_000)
    np.testing.assert_allclose(load_audio(str(path)), tone(0.5), atol=1 / 32768)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vorbis.ogg", {"format": "OGG", "subtype": "VORBIS"}),
        ("opus.ogg", {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", {"format": "MP3"}),
    ],
)
def test_lossy_formats_are_near(tmp_path, name, options):
    path = tmp_path / name
    soundfile.write(path, tone(1.0), 16_000, **options)
    loaded = load_audio(path)
    assert loaded.shape == (16_000,)
    middle = slice(4000, 12_000)
    assert np.corrcoef(loaded[middle], tone(1.0)[middle])[0, 1] > 0.99


def test_blocks_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "_BLOCK_FRAMES", 1000)
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(1.0), 16_000)
    np.testing.assert_allclose(load_audio(path), tone(1.0), atol=1 / 32768)


def test_48k_stereo_is_mixed_and_resampled_and_said_once(tmp_path, caplog):
    left, right = tone(1.0, 48_000), np.zeros(48_000, np.float32)
    first, second = tmp_path / "first.wav", tmp_path / "second.wav"
    for path in (first, second):
        soundfile.write(path, np.stack([left, right], axis=1), 48_000)
    with caplog.at_level(logging.WARNING):
        loaded = load_audio(first)
        load_audio(second)
    assert loaded.shape == (16_000,) and loaded.dtype == np.float32
    middle = slice(1000, 15_000)  # away from the resampler's edges
    np.testing.assert_allclose(loaded[middle], tone(1.0)[middle] / 2, atol=2e-3)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and all(str(first) in line for line in said)
    assert "2 channels" in said[0] and "48000 Hz" in said[1]


def test_16k_mono_says_nothing(tmp_path, caplog):
    soundfile.write(tmp_path / "a.wav", tone(0.1), 16_000)
    load_audio(tmp_path / "a.wav")
    assert not caplog.records


def test_overshoot_is_clipped(tmp_path):
    soundfile.write(tmp_path / "a.wav", 3 * tone(0.1), 16_000, subtype="FLOAT")
    assert np.abs(load_audio(tmp_path / "a.wav")).max() == 1.0


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16"])
def test_ark_entry_is_scaled_by_its_dtype(tmp_path, subtype):
    entry = tmp_path / "a.wav"
    expected = np.array([0.0, 0.5, -0.5], np.float32)
    soundfile.write(entry, expected, 16_000, subtype=subtype)
    ark = tmp_path / "w.ark"
    first = b"utt0 " + entry.read_bytes()
    soundfile.write(entry, expected[::-1], 16_000, subtype=subtype)
    ark.write_bytes(first + b"utt1 " + entry.read_bytes())
    np.testing.assert_allclose(load_audio(f"{ark}:5"), expected, atol=1e-6)
    last = load_audio(f"{ark}:{len(first) + 5}")
    np.testing.assert_allclose(last, expected[::-1], atol=1e-6)


def test_ark_of_flac_entries(tmp_path):
    ark, scp = tmp_path / "w.ark", tmp_path / "w.scp"
    kaldiio.save_ark(
        str(ark),
        {"utt": (tone(0.5, 8000), 8000)},
        scp=str(scp),
        write_function="soundfile",
        write_kwargs={"format": "flac", "subtype": None},
    )
    assert load_audio(scp.read_text().split()[-1]).shape == (8000,)
    ark.write_bytes(ark.read_bytes()[:-1])
    with pytest.raises(UserError, match="the ark ends inside it"):
        load_audio(scp.read_text().split()[-1])


def test_ark_without_waveform_and_pickle_are_refused(tmp_path):
    ark, scp = tmp_path / "w.ark", tmp_path / "w.scp"
    with kaldiio.WriteHelper(f"ark,scp:{ark},{scp}") as writer:
        writer("utt", np.zeros((3, 4), np.float32))
    with pytest.raises(UserError, match="no waveform begins"):
        load_audio(scp.read_text().split()[-1])
    ark.write_bytes(b"utt PKL\x80\x04.")
    with pytest.raises(UserError, match="a pickle"):
        load_audio(f"{ark}:4")
    for offset in (8, 10**17):
        with pytest.raises(UserError, match="no waveform begins"):
            load_audio(f"{ark}:{offset}")
    for name in ("absent.ark:4", f"w.ark:{10**40}"):
        with pytest.raises(UserError, match="no such audio file"):
            load_audio(f"{tmp_path}/{name}")


def test_truncated_ark(tmp_path):
    ark = tmp_path / "w.ark"
    with kaldiio.WriteHelper(f"ark:{ark}") as writer:
        writer("utt", (16_000, np.ones(16_000, np.int16)))
    ark.write_bytes(ark.read_bytes()[:5000])
    with pytest.raises(UserError, match="the ark ends inside it"):
        load_audio(f"{ark}:4")
    for rest in (b"fLaC and then nothing of the kind", b"AUDIO", b"AUDIO\x02a"):
        ark.write_bytes(b"utt " + rest)
        with pytest.raises(UserError, match="truncated or corrupt"):
            load_audio(f"{ark}:4")


def write_bad(directory, kind):
    """One file of each kind of damage."""
    path = directory / "bad.wav"
    if kind == "directory":
        path.mkdir()
    elif kind == "zero bytes":
        path.touch()
    elif kind == "no samples":
        soundfile.write(path, np.zeros(0), 16_000)
    elif kind == "text":
        path.write_text("hello, this is no audio\n" * 50)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind in ("nan", "inf"):
        samples = tone(0.1)
        samples[7] = float(kind)
        soundfile.write(path, samples, 16_000, subtype="FLOAT")
    elif kind == "integers as floats":
        soundfile.write(path, 20_000 * tone(0.1), 16_000, subtype="FLOAT")
    elif kind == "rate":
        soundfile.write(path, tone(0.1), 10)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such audio file"),
        ("directory", "is a directory"),
        ("zero bytes", "empty file"),
        ("no samples", "holds no samples"),
        ("text", "not readable as audio"),
        ("fifo", "not a regular file"),
        ("nan", "NaN or infinite"),
        ("inf", "NaN or infinite"),
        ("integers as floats", "rescale"),
        ("rate", "implausible rate of 10 Hz"),
    ],
)
def test_bad_file_is_one_line_that_names_it(tmp_path, kind, message):
    path = write_bad(tmp_path, kind)
    with pytest.raises(UserError, match=message) as caught:
        load_audio(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.flac", "a.wav", "a.aiff", "a.mp3"])
@pytest.mark.parametrize("kept", [0.97, 0.5, 0.1])
def test_truncated_file_is_refused(tmp_path, name, kept):
    path = tmp_path / name
    soundfile.write(path, noise(160_000), 16_000)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match="truncated or corrupt"):
        load_audio(path)


def test_flac_that_ends_between_frames_is_refused(tmp_path):
    """The header promises more samples than decode, and no frame is damaged."""
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(16_000), 16_000)
    content = bytearray(path.read_bytes())
    # STREAMINFO: bytes 21..25 end with the 36-bit number of samples.
    assert int.from_bytes(content[22:26], "big") == 16_000
    content[22:26] = (32_000).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(UserError, match="truncated or corrupt"):
        load_audio(path)


def test_flac_of_unknown_length_is_refused(tmp_path):
    """An encoder that writes into a pipe leaves the number of samples at 0."""
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(16_000), 16_000)
    content = bytearray(path.read_bytes())
    content[22:26] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"lacks the length.*convert it"):
        load_audio(path)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFF000])
def test_wav_from_a_pipe_is_read(tmp_path, length):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.5), 16_000)
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = length.to_bytes(4, "little")
    path.write_bytes(content)
    assert load_audio(path).shape == (8000,)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything"
)
def test_no_permission(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.1), 16_000)
    path.chmod(0)
    with pytest.raises(UserError, match="no permission"):
        load_audio(path)


def test_no_permission_as_told_by_the_system(tmp_path, monkeypatch):
    """The same where the tests run as root."""
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.1), 16_000)

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(io, "open", refuse, raising=False)
    with pytest.raises(UserError, match="no permission"):
        load_audio(path)


@given(
    samples=st.integers(0, 4000),
    longest=st.integers(1, 1500),
    seed=st.integers(0, 3),
    silent=st.booleans(),
)
def test_split_long_properties(samples, longest, seed, silent):
    waveform = np.zeros(samples, np.float32) if silent else noise(samples, seed)
    max_seconds = (longest + 0.5) / 16_000
    pieces = split_long(waveform, max_seconds)
    assert all(0 < len(piece) <= longest for piece in pieces)
    whole = np.concatenate([*pieces, np.zeros(0, np.float32)])
    np.testing.assert_array_equal(whole, waveform)
    # Each cut lies in the last third of its window.
    for piece in pieces[:-1]:
        assert len(piece) >= longest - longest // 3
    assert (len(pieces) == 1) == (0 < samples <= longest)


def test_split_long_cuts_in_the_pause():
    waveform = noise(16_000 * 50)
    waveform[16_000 * 24 : 16_000 * 24 + 8000] *= 0.01
    waveform[16_000 * 10 : 16_000 * 11] = 0.0  # quieter, before the last third
    first, second = split_long(waveform)
    assert 24.0 < len(first) / 16_000 < 24.5
    assert len(first) + len(second) == len(waveform)


def test_split_long_refuses_nonsense():
    with pytest.raises(ValueError):
        split_long(np.zeros((2, 100), np.float32))
    with pytest.raises(ValueError):
        split_long(np.zeros(100, np.float32), 0.0)
