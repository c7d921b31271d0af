"""Whether anything can be spoken in a waveform, by its energy.

Whisper answers silence with words that were frequent in its training, and so does an
LM behind it.
"""

from __future__ import annotations

import numpy as np

from espnet_llada.types import SAMPLE_RATE

INAUDIBLE = 1e-4
"""Peak (full scale is 1; -80 dB) up to which a waveform is silence: there Whisper's
log-mel features are at their floor."""

QUIET = 1e-3
"""Level (-60 dB) up to which a model's CTC, if it has one, is asked for words first."""

_FRAME = SAMPLE_RATE // 50


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
