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

    Recordings are taken in the order of their wav.scp, again from the first when it
    ends, joined, and cut to length: what is said does not matter, that it is speech
    does.

    Args:
        data: a set of the recipe's, or ``NOISE``.
        seconds: of each utterance.
        batch: utterances in a batch.
        repeats: repetitions; see ``batches_of``.
        allow_pipes: run commands that stand in place of files.

    Returns:
        Batches of float32 arrays of round(seconds * 16000) samples.

    Raises:
        UserError: no recordings, or one that cannot be read.
    """
    count, size = batches_of(data, repeats), round(seconds * SAMPLE_RATE)
    if str(data) == NOISE:
        shape = count, batch, size
        joined = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        return [[*rows] for rows in 0.1 * joined]
    wav_scp = data / "wav.scp"
    table = read_recordings(wav_scp, allow_pipes)
    recordings = [load_audio(path) for path in table.values()]
    total, needed = sum(map(len, recordings)), count * batch * size
    if not total:
        raise UserError(f"{wav_scp}: no speech in it; name a set of the recipe's")
    joined = np.concatenate(recordings * -(-needed // total))[:needed]
    return [[*rows] for rows in joined.reshape(count, batch, size)]
