"""Whisper's log-mel spectrogram, batched, without asset files.

Source: ``log_mel_spectrogram`` in openai/whisper ``whisper/audio.py``; the filterbank
is Slaney's (Auditory Toolbox 1998), which the arrays shipped there were made from.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch

from espnet_llada.types import SAMPLE_RATE

N_FFT = 400
HOP_LENGTH = 160

_LINEAR_HZ_PER_MEL = 200.0 / 3  # below 1 kHz a mel is this many Hz
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = math.log(6.4) / 27.0  # above it 27 mels span a factor of 6.4


def log_mel(waveforms: torch.Tensor, n_mels: int = 80) -> torch.Tensor:
    """Log-mel features as Whisper was trained on.

    Every row is scaled by the peak of its own frames, padding included, so rows
    do not touch one another; a row's result does depend on how far it is padded.

    Args:
        waveforms: samples of shape (B, T) at 16 kHz, float32 (or float64), T > 200.
        n_mels: 80, or 128 for large-v3.

    Returns:
        Features of shape (B, n_mels, T // 160) in the dtype of ``waveforms``.

    Raises:
        ValueError: another rank or dtype, or too few samples to reflect at the edges.
    """
    if waveforms.dim() != 2 or waveforms.shape[1] <= N_FFT // 2:
        raise ValueError(f"need (B, T > {N_FFT // 2}), got {tuple(waveforms.shape)}")
    if waveforms.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"need float32 or float64 samples, got {waveforms.dtype}")
    device = waveforms.device
    window, filters = _constants(n_mels, device, waveforms.dtype)
    # Half precision would underflow on quiet frames, so autocast stays out.
    with torch.autocast(device.type, enabled=False):
        spectrum = torch.stft(
            waveforms,
            N_FFT,
            HOP_LENGTH,
            window=window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )[..., :-1]
        power = torch.view_as_real(spectrum).square().sum(-1)
        mel = filters @ power
    features = mel.clamp(min=1e-10).log10()
    floor = features.amax(dim=(1, 2), keepdim=True) - 8.0
    return (torch.maximum(features, floor) + 4.0) / 4.0


def mel_filterbank(n_mels: int) -> np.ndarray:
    """Slaney's triangular filters over 0 Hz to 8 kHz, each of unit area.

    Returns:
        Weights of shape (n_mels, 201), float64.
    """
    top = _BREAK_MEL + math.log(SAMPLE_RATE / 2 / _BREAK_HZ) / _LOG_STEP
    mels = np.linspace(0.0, top, n_mels + 2)
    # maximum() keeps exp() from being evaluated where the scale is linear
    log_part = _BREAK_HZ * np.exp(_LOG_STEP * np.maximum(mels - _BREAK_MEL, 0.0))
    edges = np.where(mels < _BREAK_MEL, mels * _LINEAR_HZ_PER_MEL, log_part)
    bins = np.linspace(0.0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    width = np.diff(edges)[:, None]
    rise = (bins - edges[:-2, None]) / width[:-1]
    fall = (edges[2:, None] - bins) / width[1:]
    triangles = np.maximum(0.0, np.minimum(rise, fall))
    return triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]


@functools.cache
def _constants(
    n_mels: int, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Window (400,) and filterbank (n_mels, 201)."""
    # A tensor made inside torch.inference_mode() could not be used in a graph later.
    with torch.inference_mode(False):
        filters = torch.from_numpy(mel_filterbank(n_mels)).to(device, dtype)
        return torch.hann_window(N_FFT, device=device, dtype=dtype), filters
