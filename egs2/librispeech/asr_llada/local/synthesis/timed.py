"""Speech whose word times are known: Flite's own durations.

Through its C library, since the program ``flite`` writes no times. Voices: rms (mini
has trained on it), slt, awb and kal16 (it has not).

    apt-get download libflite1 && dpkg-deb -x libflite1*.deb flite
    # the libraries are in flite/usr/lib/x86_64-linux-gnu
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from espnet_llada.types import SAMPLE_RATE, UserError

VOICES = ("rms", "slt", "awb", "kal16")
_FIRST = b"R:SylStructure.daughter.daughter.R:Segment.p.end"
_LAST = b"R:SylStructure.daughtern.daughtern.R:Segment.end"
_Pointer = ctypes.c_void_p


class TimedWord(NamedTuple):
    """A word and when it is spoken (s)."""

    text: str
    start: float
    end: float


class _Wave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )


class TimedFlite:
    """A voice of Flite's.

    Args:
        folder: of libflite.so.1 and its voices.
        voice: one of ``VOICES``.

    Raises:
        UserError: the libraries are not there.
    """

    def __init__(self, folder: Path, voice: str):
        names = "libflite", "libflite_cmulex", "libflite_usenglish"
        try:
            libraries = [_library(folder / f"{name}.so.1") for name in names]
            own = _library(folder / f"libflite_cmu_us_{voice}.so.1")
        except OSError as e:
            raise UserError(
                f"{folder}: no Flite with the voice {voice} ({e}); see "
                "local/synthesis/timed.py for where to get it"
            ) from e
        self._flite = libraries[0]
        self._call("flite_init", ctypes.c_int)()
        register = getattr(own, f"register_cmu_us_{voice}")
        register.restype, register.argtypes = _Pointer, (ctypes.c_char_p,)
        self._voice = register(None)

    def _call(self, name: str, result: Any, *arguments: Any) -> Callable:
        function = getattr(self._flite, name)
        function.restype, function.argtypes = result, arguments
        return function

    def speak(self, text: str) -> tuple[np.ndarray, list[TimedWord]]:
        """float32 samples (T,) at 16 kHz, and the words as Flite reads them."""
        synthesize = self._call("flite_synth_text", _Pointer, ctypes.c_char_p, _Pointer)
        utterance = synthesize(text.encode(), self._voice)
        try:
            wave = self._call("utt_wave", ctypes.POINTER(_Wave), _Pointer)
            found = wave(utterance).contents
            assert found.sample_rate == SAMPLE_RATE, found.sample_rate
            shape = (found.num_samples,)
            samples = np.ctypeslib.as_array(found.samples, shape) / np.float32(32768)
            return samples.astype(np.float32), self._words(utterance)
        finally:
            self._call("delete_utterance", None, _Pointer)(utterance)

    def _words(self, utterance: int) -> list[TimedWord]:
        relation = self._call("utt_relation", _Pointer, _Pointer, ctypes.c_char_p)
        following = self._call("item_next", _Pointer, _Pointer)
        name = self._call(
            "item_feat_string", ctypes.c_char_p, _Pointer, ctypes.c_char_p
        )
        time = self._call("ffeature_float", ctypes.c_float, _Pointer, ctypes.c_char_p)
        head = self._call("relation_head", _Pointer, _Pointer)
        item, words = head(relation(utterance, b"Word")), []
        while item:
            ends = time(item, _FIRST), time(item, _LAST)
            words.append(TimedWord(name(item, b"name").decode(), *ends))
            item = following(item)
        return words


def _library(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
