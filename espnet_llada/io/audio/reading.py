"""Reads speech from files: mono float32 at 16 kHz, or one clear line of refusal."""

from __future__ import annotations

import io
import logging
import math
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from espnet_llada.io.audio.containers import split_file
from espnet_llada.io.audio.foreign import not_audio
from espnet_llada.io.audio.stream import BytesFile, truncated
from espnet_llada.io.kaldi.archive import read_entry
from espnet_llada.io.kaldi.pipe import Pipe
from espnet_llada.io.waveform import as_floats, check_samples
from espnet_llada.types import SAMPLE_RATE, UserError

_ARK = re.compile(r"(.+\.ark):\d{1,18}")
_FORMATS = (
    *("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "SVX", "NIST"),
    *("FLAC", "OGG", "MP3"),
)
"""libsndfile's, without those that it reads to the end of the file whatever is there:
cut, they would be short without a word, and joined have a header among the samples."""
_BLOCK_FRAMES = 1 << 22
_RATES = range(1_000, 768_001)
_CANCELLED = 0.1  # of the energy that is left of channels without anything in common

_said: set[str] = set()


def load_audio(path: str | os.PathLike | BinaryIO) -> np.ndarray:
    """Read one recording as mono speech at 16 kHz.

    Other sample rates are resampled and channels are averaged (or the loudest taken,
    where they cancel one another); recordings joined end to end are read as one. The
    first file of each kind is named in a warning, once per process.

    Truncation is detected where the container says how long it is, which Ogg does not.
    A length of 0 or of no sense is that of a recorder that died or wrote into a pipe:
    what is there is read.

    Args:
        path: a file (WAV and its kin, AIFF, SPHERE, FLAC, Ogg Vorbis or Opus, MP3), or
            ``file.ark:offset`` as in Kaldi's wav.scp; or a ``Pipe``; or an open file,
            of a ``BytesIO`` all that is in it.

    Returns:
        Samples of shape (T,), float32 in [-1, 1], T >= 1.

    Raises:
        UserError: the file is missing, unreadable, empty, truncated, not audio, or
            holds samples that are not numbers or not in [-1, 1] units.
    """
    if isinstance(path, Pipe):
        return path.read(load_audio)
    if hasattr(path, "read"):
        return _decoded(*_read_open(path))
    name = os.fspath(path)
    if ark := _ARK.fullmatch(name):
        _check_file(Path(ark[1]))
        return _to_mono_16k(name, *_read_ark(name))
    return _decoded(name, _read_bytes(Path(name)))


def _read_open(file: BinaryIO) -> tuple[str, memoryview]:
    name = f"the {type(file).__name__} given"
    content = file.getvalue() if isinstance(file, io.BytesIO) else file.read()
    if not isinstance(content, bytes):
        raise UserError(f"{name}: holds text; open the audio file as 'rb'")
    if not content:
        raise UserError(f"{name}: holds no bytes (read to its end before?)")
    return name, memoryview(content)


def _decoded(name: str, content: memoryview) -> np.ndarray:
    found = split_file(name, content)
    waveforms = [_to_mono_16k(name, *_decode(name, s)) for s in found.streams]
    for topic, note in found.notes.items():
        _say_once(topic, "%s: %s", name, note)
    return waveforms[0] if len(waveforms) == 1 else np.concatenate(waveforms)


def _read_bytes(path: Path) -> memoryview:
    _check_file(path)
    try:
        return memoryview(path.read_bytes())
    except OSError as e:
        raise UserError(f"{path}: cannot read ({e.strerror}); copy it again") from e


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UserError(f"{path}: is a directory; name an audio file inside it")
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a regular file; save the audio to one first")
        if status.st_size == 0:
            raise UserError(f"{path}: empty file (0 bytes); record or copy it again")
        with open(path, "rb"):
            pass
    except FileNotFoundError as e:
        raise UserError(f"{path}: no such audio file; check the path") from e
    except PermissionError as e:
        raise UserError(f"{path}: no permission to read; chmod +r it") from e
    except (OSError, ValueError) as e:  # ValueError: a null byte in the name
        raise UserError(f"{path!s:.200}: cannot open ({e}); check the path") from e


def _decode(name: str, content: memoryview) -> tuple[np.ndarray, int]:
    """Samples of shape (T, channels) and their rate (Hz)."""
    try:
        file = soundfile.SoundFile(BytesFile(content))
    except soundfile.LibsndfileError as e:
        raise not_audio(name, content, e.error_string.rstrip(".")) from e
    with file as f:
        if f.frames == np.iinfo(np.int64).max:  # libsndfile fails at its end
            detail = "its header lacks the length, as from a pipe"
            raise not_audio(name, content, detail)
        if f.format not in _FORMATS:
            detail = f"it is {f.format}, of which nobody can tell where it ends"
            raise not_audio(name, content, detail)
        blocks = []
        try:
            # In blocks, since a header may promise any number of samples.
            while len(block := f.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
                blocks.append(block)
        except soundfile.LibsndfileError as e:
            detail = e.error_string.removeprefix("Error : ").rstrip(".")
            raise truncated(name, detail) from e
        decoded = sum(map(len, blocks))
        # An MP3's length is a count of frames that some encoders get wrong by a few.
        slack = f.samplerate // 10 if f.format == "MP3" else 0
        if decoded + slack < f.frames:
            raise truncated(name, "its header promises more samples than there are")
    if not decoded:
        raise UserError(f"{name}: holds no samples; record or copy it again")
    return np.concatenate(blocks), f.samplerate


def _read_ark(name: str) -> tuple[np.ndarray, int]:
    """The same for a waveform inside a Kaldi archive."""
    entry = read_entry(name)
    if not isinstance(entry, tuple):
        raise UserError(f"{name}: an array, no waveform begins there; rebuild wav.scp")
    rate, samples = entry
    if not samples.size:
        raise UserError(f"{name}: holds no samples; rebuild the ark")
    return as_floats(name, samples).reshape(len(samples), -1), rate


def _to_mono_16k(name: str, samples: np.ndarray, rate: int) -> np.ndarray:
    check_samples(name, samples)
    mono = samples[:, 0] if samples.shape[1] == 1 else _mix(name, samples)
    mono = resampled(name, mono, rate)
    if rate != SAMPLE_RATE:
        _say_once("rate", "%s: %d Hz, resampled to %d Hz", name, rate, SAMPLE_RATE)
    return mono


def resampled(name: str, mono: np.ndarray, rate: int) -> np.ndarray:
    """Samples (T,) at any ``rate`` (Hz), as float32 at 16 kHz in [-1, 1].

    Raises:
        UserError: no rate that speech has.
    """
    if rate not in _RATES:
        raise UserError(f"{name}: implausible rate of {rate} Hz; export it again")
    if rate != SAMPLE_RATE:
        from scipy.signal import resample_poly  # only where it is needed

        divisor = math.gcd(rate, SAMPLE_RATE)
        mono = resample_poly(mono, SAMPLE_RATE // divisor, rate // divisor)
    # Lossy codecs and the resampler's filter overshoot full scale a little.
    return np.clip(mono, -1.0, 1.0).astype(np.float32, copy=False)


def _mix(name: str, samples: np.ndarray) -> np.ndarray:
    """One channel out of several: shape (T, channels) to (T,)."""
    channels = samples.shape[1]
    mean = samples.mean(axis=1, dtype=np.float32)
    # Of n channels that have nothing in common, or of which one alone is not silent,
    # the mean has 1/n of their energy. Much less is left only where they cancel one
    # another, as where one wire of a stereo cable is turned round (correlation -0.9
    # or below). Variances: a constant offset is no sound.
    energies = samples.var(axis=0, dtype=np.float64)
    left = mean.var(dtype=np.float64)
    if channels * left < _CANCELLED * energies.mean():
        message = "%s: its %d channels cancel one another; channel %d alone is taken"
        loudest = int(energies.argmax())
        _say_once("cancelled", message, name, channels, loudest + 1)
        return samples[:, loudest]
    _say_once("channels", "%s: %d channels, averaged", name, channels)
    return mean


def _say_once(topic: str, message: str, *args: object) -> None:
    if topic not in _said:
        _said.add(topic)
        logging.warning(message + " (said once; other files may be too)", *args)
