"""From a clean synthetic voice to something like a recording, at 16 kHz.

Room, noise, telephone band and level, in the order in which they happen. All of it
follows from the generator that is passed in.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from scipy import signal

RATE = 16_000

ROOM, NOISE, TELEPHONE = 0.2, 0.5, 0.2
"""Shares of the utterances."""


def resample(samples: np.ndarray, rate: float) -> np.ndarray:
    """To 16 kHz; the rate may be any number, since voices are shifted by it."""
    if rate == RATE:
        return samples
    ratio = Fraction(RATE / rate).limit_denominator(400)
    up, down = ratio.numerator, ratio.denominator
    return signal.resample_poly(samples, up, down).astype(np.float32)


def trim(samples: np.ndarray, threshold: float = 1e-3) -> np.ndarray:
    """Without silence at either end, as far as it is below the peak's -60 dB."""
    loud = np.flatnonzero(np.abs(samples) > threshold * np.abs(samples).max(initial=0))
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples[:0]


def record(
    clean: np.ndarray, others: list[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Simulate the recording of a clean utterance.

    Args:
        clean: (samples,) at 16 kHz, silence trimmed.
        others: clean utterances of other texts, for babble.
        rng: decides everything.

    Returns:
        (samples,) float32 within -1 and 1, with up to 0.4 s of pause at either end.
    """
    before, after = (rng.uniform(0.05, 0.4, 2) * RATE).astype(int)
    sound = np.pad(clean, (before, after))
    power = np.mean(clean**2) + 1e-12
    in_room, noisy, by_telephone = rng.random(3) < (ROOM, NOISE, TELEPHONE)
    if in_room:
        sound = signal.fftconvolve(sound, room(rng))[: len(sound)]
        sound *= np.sqrt(power / (np.mean(sound[before:-after] ** 2) + 1e-12))
    if noisy:
        disturbance = noise(len(sound), others, rng)
        decibel = rng.uniform(10, 30)
        sound = sound + disturbance * np.sqrt(power * 10 ** (-decibel / 10))
    if by_telephone:
        sound = telephone(sound)
    peak = 10 ** (rng.uniform(-16, -1) / 20)
    return (sound * (peak / (np.abs(sound).max() + 1e-9))).astype(np.float32)


def room(rng: np.random.Generator) -> np.ndarray:
    """An impulse response: direct sound, then noise that decays by 60 dB in T60."""
    t60, early = rng.uniform(0.15, 0.6), rng.uniform(0.002, 0.02)
    time = np.arange(int(t60 * RATE)) / RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / t60)
    tail[time < early] = 0
    ratio = 10 ** (rng.uniform(0, 12) / 20)  # direct sound to reverberation
    response = tail / (np.linalg.norm(tail) * ratio)
    response[0] = 1
    return response


def noise(
    length: int, others: list[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """White or pink noise or babble, (length,), of unit power."""
    kind = rng.choice(["white", "pink", "babble"])
    if kind == "babble" and len(others) >= 3:
        chosen = rng.choice(len(others), 3, replace=False)
        sound = np.sum([np.resize(others[i], length) for i in chosen], axis=0)
    else:
        sound = rng.standard_normal(length)
    if kind == "pink":
        spectrum = np.fft.rfft(sound)
        sound = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1), length)
    return sound / (np.sqrt(np.mean(sound**2)) + 1e-12)


def telephone(sound: np.ndarray) -> np.ndarray:
    """300 to 3,400 Hz, through the 8-bit mu-law of a telephone line."""
    band = signal.butter(4, (300, 3400), "bandpass", fs=RATE, output="sos")
    sound = signal.sosfilt(band, sound)
    peak = np.abs(sound).max() + 1e-9
    coded = np.sign(sound) * np.log1p(255 * np.abs(sound) / peak) / np.log(256)
    coded = np.round(coded * 127) / 127
    return np.sign(coded) * np.expm1(np.abs(coded) * np.log(256)) / 255 * peak
