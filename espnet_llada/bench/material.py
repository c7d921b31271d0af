"""Speech of an exact duration, made of real utterances, or noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from espnet_llada.io.audio.reading import load_audio
from espnet_llada.io.kaldi.table import read_recordings
from espnet_llada.types import SAMPLE_RATE, UserError

NOISE = "noise"
"""Instead of a directory of speech, where the weights are random anyway."""


def batches_of(data: Path, repeats: int) -> int:
    """How many batches there are for so many repetitions: of noise one does for all."""
    return 1 if str(data) == NOISE else repeats


def material_of(
    data: Path, seconds: float, batch: int, repeats: int, allow_pipes: bool = False
) -> list[list[np.ndarray]]:
    """Batches of utterances of one duration: what each repetition decodes.

    Args:
        data: a set of the recipe's, for ``speech_of`` its wav.scp, or ``NOISE``.
        seconds: of each utterance.
        batch: utterances in a batch.
        repeats: repetitions; see ``batches_of``.
        allow_pipes: run commands that stand in place of files.
    """
    count = batches_of(data, repeats)
    if str(data) != NOISE:
        found = speech_of(data / "wav.scp", seconds, batch * count, allow_pipes)
        return [found[i * batch : (i + 1) * batch] for i in range(count)]
    random, size = np.random.default_rng(0), round(seconds * SAMPLE_RATE)
    return [[*(0.1 * random.standard_normal((batch, size), dtype=np.float32))]]


def speech_of(
    wav_scp: Path, seconds: float, count: int, allow_pipes: bool = False
) -> list[np.ndarray]:
    """Utterances of one duration.

    Recordings are taken in the order of the file, again from the first when it ends,
    joined, and cut to length: what is said does not matter, that it is speech does.

    Args:
        wav_scp: 'id path' lines.
        seconds: of each utterance.
        count: how many.
        allow_pipes: run commands that stand in place of files.

    Returns:
        float32 arrays of round(seconds * 16000) samples.

    Raises:
        UserError: no recordings, or one that cannot be read.
    """
    table = read_recordings(wav_scp, allow_pipes)
    recordings = [load_audio(path) for path in table.values()]
    total = sum(map(len, recordings))
    if not total:
        raise UserError(f"{wav_scp}: no speech in it; name a set of the recipe's")
    size = round(seconds * SAMPLE_RATE)
    copies = -(-size * count // total)
    joined = np.concatenate(recordings * copies)
    return [joined[i * size : (i + 1) * size] for i in range(count)]
