"""Utterances as Python programs have them, to mono float32 at 16 kHz."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from espnet_llada.io.schema import Count, checked
from espnet_llada.io.waveform import check_samples
from espnet_llada.types import SAMPLE_RATE, UserError

Samples = np.ndarray | torch.Tensor
Speech = Samples | tuple[Samples, int] | tuple[int, Samples] | str | Path | BinaryIO
"""Floats in [-1, 1], or integers as in WAV files, (T,), (1, T) or (T, 1), at 16 kHz or
with their rate (Hz), as soundfile, torchaudio, SciPy and kaldiio return them; or an
audio file by its path, open, or in a ``BytesIO``."""


def unpadded(padded: Sequence[Samples], lengths: Sequence[int]) -> list[Samples]:
    """The rows (T,) of padded ones (B, T), given their lengths (B,)."""
    if len(lengths) != len(padded):
        raise UserError(f"{len(lengths)} speech_lengths for {len(padded)} utterances")
    for row, length in zip(padded, lengths, strict=True):
        if not hasattr(row, "ndim") or not 0 < length <= len(row):
            raise UserError(
                f"speech_lengths {length}: give samples (B, T) and lengths of 1 to T"
            )
    return [row[:length] for row, length in zip(padded, lengths, strict=True)]


def is_batch(speech: Any) -> bool:
    """Whether it is a list of utterances, not one of them with its rate."""
    return isinstance(speech, (list, tuple)) and _with_rate(speech) is None


def _with_rate(speech: Any) -> tuple[Samples, int] | None:
    if isinstance(speech, tuple) and len(speech) == 2:
        for samples, rate in (speech, speech[::-1]):
            if isinstance(rate, Integral):
                return samples, int(rate)
    return None


def waveform_of(speech: Speech, utt_id: str, fs: int) -> np.ndarray:
    """Samples (T,), float32 at 16 kHz.

    Args:
        speech: one utterance.
        utt_id: for messages.
        fs: rate of samples that come without one (Hz).

    Raises:
        UserError: it is no speech, or no rate.
    """
    from espnet_llada.io.audio import reading

    if isinstance(speech, (str, Path)) or hasattr(speech, "read"):
        return reading.load_audio(speech)
    name = f"speech of utterance {utt_id}"
    speech, fs = _with_rate(speech) or (speech, fs)
    if isinstance(speech, torch.Tensor):
        floats = speech.float() if speech.is_floating_point() else speech
        speech = floats.detach().cpu().numpy()
    if not isinstance(speech, np.ndarray):
        raise UserError(
            f"{name}: a {type(speech).__name__}; give an array, a tensor or a file"
        )
    speech = reading.as_floats(name, speech)
    if speech.ndim == 2 and 1 in speech.shape:  # one channel, as torchaudio.load has it
        speech = speech.reshape(-1)
    if speech.ndim != 1:
        raise UserError(
            f"{name}: shape {speech.shape}; give mono samples (T,), e.g. the mean over "
            "the channels, and several utterances as a list"
        )
    if not len(speech):
        raise UserError(f"{name}: holds no samples")
    check_samples(name, speech)
    if fs == SAMPLE_RATE:
        return np.require(speech, np.float32, "W")  # torch warns of what is read-only
    rate = int(fs) if isinstance(fs, Integral) else fs  # NumPy's
    return reading.resampled(name, speech, checked(rate, Count, f"{name}: fs"))
