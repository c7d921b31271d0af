"""Waveforms: what is no speech at all, and where a long one may be cut.

Whisper answers silence with words that were frequent in its training, and so does an
LM behind it; so silence is told by its energy.
"""

from __future__ import annotations

import numpy as np

from espnet_llada.types import SAMPLE_RATE, UserError

_PEAK = 8.0  # float samples above this are not in [-1, 1] units at all
INAUDIBLE = 1e-4
"""Peak (full scale is 1; -80 dB) up to which a waveform is silence: there Whisper's
log-mel features are at their floor."""

QUIET = 1e-3
"""Level (-60 dB) up to which a model's CTC, if it has one, is asked for words first."""

_FRAME = SAMPLE_RATE // 50
_INTEGERS = {
    "uint8": (128, 1 << 7),
    "int16": (0, 1 << 15),
    "int32": (0, 1 << 31),
}  # offset, full scale; as WAV files have them


def is_inaudible(waveform: np.ndarray) -> bool:
    """Whether float32 samples (T,) are digital silence, or next to it."""
    return float(np.abs(waveform).max(initial=0.0)) <= INAUDIBLE


def is_quiet(waveform: np.ndarray) -> bool:
    """Whether all but the loudest twentieth of the frames (20 ms) are below ``QUIET``.

    A click does not make speech of silence.

    Args:
        waveform: float32 (T,) at 16 kHz.
    """
    whole = len(waveform) // _FRAME * _FRAME
    frames = waveform[:whole].reshape(-1, _FRAME) if whole else waveform[None]
    levels = np.sqrt(np.square(frames, dtype=np.float64).mean(axis=1))
    return bool(np.quantile(levels, 0.95) <= QUIET)


def as_floats(name: str, samples: np.ndarray) -> np.ndarray:
    """Floats as they are; integers of a WAV file's kinds as float32 in [-1, 1].

    Raises:
        UserError: other integers, whose full scale nobody knows; no numbers.
    """
    if samples.dtype.kind == "f":
        return samples
    if samples.dtype.name not in _INTEGERS:
        raise UserError(
            f"{name}: {samples.dtype} samples; give floats in [-1, 1], or "
            f"{', '.join(_INTEGERS)}"
        )
    offset, scale = _INTEGERS[samples.dtype.name]
    return (samples.astype(np.float32) - offset) / scale


def check_samples(name: str, samples: np.ndarray) -> None:
    """Refuse float samples that are no numbers, or far above full scale."""
    peak = np.abs(samples).max()
    if not np.isfinite(peak):  # max() carries a NaN through
        raise UserError(f"{name}: has NaN or infinite samples; export it again")
    if peak > _PEAK:
        raise UserError(
            f"{name}: float samples reach {peak:.6g}, full scale is 1; rescale them"
        )


def split_long(waveform: np.ndarray, max_seconds: float = 30.0) -> list[np.ndarray]:
    """Cut a recording at its quietest places into pieces that the encoder takes.

    Each cut is at the middle of the quietest 0.2 s within the last third of the
    longest piece allowed there; among equals, the latest.

    Args:
        waveform: samples of shape (T,) at 16 kHz.
        max_seconds: the longest piece allowed (seconds).

    Returns:
        Views of ``waveform``, none empty, that concatenate to it; no piece at all
        for an empty waveform.

    Raises:
        ValueError: the waveform is not 1-D or ``max_seconds`` is below one sample.
    """
    longest = int(max_seconds * SAMPLE_RATE)
    if waveform.ndim != 1 or longest < 1:
        raise ValueError(f"shape {waveform.shape}, max_seconds {max_seconds}")
    pieces = []
    start = 0
    while len(waveform) - start > longest:
        first = start + longest - longest // 3
        cut = first + _quietest(waveform[first : start + longest])
        pieces.append(waveform[start:cut])
        start = cut
    if start < len(waveform):
        pieces.append(waveform[start:])
    return pieces


def _quietest(samples: np.ndarray) -> int:
    """Index of the middle of the quietest 0.2 s; ``samples`` may be shorter."""
    width = min(SAMPLE_RATE // 5, len(samples))
    energy = np.concatenate(([0.0], np.cumsum(np.square(samples, dtype=np.float64))))
    windows = energy[width:] - energy[: len(energy) - width]
    return len(windows) - 1 - int(np.argmin(windows[::-1])) + width // 2
