"""Where nothing is spoken there is nothing to recognise.

Whisper answers silence with words that were frequent in its training, and so does an
LM that listens through it. The waveform's energy and the adapter's CTC say so before
either is asked.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from espnet_llada.extensions.posterior_prefix.ctc import Windows
from espnet_llada.types import SAMPLE_RATE

INAUDIBLE = 1e-4
"""Peak (full scale is 1; -80 dB) up to which a waveform is silence: there Whisper's
log-mel features are at their floor."""

QUIET = 1e-3
"""Level (-60 dB) up to which the CTC has to hear a word before anything is written."""

HEARD = 0.9
"""Probability of a token that a CTC has in some window of any speech: 0.98 at least in
331 utterances, 0.72 at most in silence and in noise."""

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


def speaking(windows: Windows) -> Tensor:
    """(B,) bool: rows in which a CTC surely hears a token somewhere.

    Args:
        windows: of the batch.
    """
    places = torch.arange(windows.blank.shape[1], device=windows.lengths.device)
    there = places < windows.lengths[:, None]
    token = (1 - windows.blank.exp()).masked_fill(~there, 0.0)
    return (token > HEARD).any(dim=1)
