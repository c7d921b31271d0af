"""Speech of a duration, made of real utterances that are known, or noise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet_llada.io.kaldi.table import read_recordings, read_text
from espnet_llada.types import SAMPLE_RATE, UserError

NOISE = "noise"
"""Instead of a directory of speech, where the weights are random anyway."""

_FULL = 0.75
"""The part of a duration that recordings have to fill; the rest is silence."""


class Piece(NamedTuple):
    """What is decoded: (T,) float32 at 16 kHz, whose ids and words are joined.

    ``text``: "" where the words are not known.
    """

    name: str
    samples: np.ndarray
    text: str


def repeats_of(batch: int, repeats: int, utterances: int) -> int:
    """Repetitions with a batch: enough for so many utterances, at least ``repeats``."""
    return max(repeats, -(-utterances // batch))


def is_noise(data: Sequence[Path]) -> bool:
    """Whether noise is asked for."""
    return [str(folder) for folder in data] == [NOISE]


def noise_of(seconds: float, batch: int) -> list[Piece]:
    """A batch of noise; nobody knows what it says."""
    shape = batch, round(seconds * SAMPLE_RATE)
    rows = 0.1 * np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return [Piece(f"{NOISE}-{i}", row, "") for i, row in enumerate(rows)]


def material_of(
    data: Sequence[Path],
    seconds: float,
    batch: int,
    repeats: int,
    allow_pipes: bool = False,
) -> list[list[Piece]]:
    """Batches of utterances of one duration: what each repetition decodes.

    Whole recordings in the order of their wav.scp, joined as long as they fit, and
    silence up to the duration, which Whisper's own decoders add to 30 s anyway. So it
    is known what is said. When the recordings end they begin anew.

    Args:
        data: sets of the recipe's, or ``NOISE``.
        seconds: of each utterance.
        batch: utterances in a batch.
        repeats: repetitions; of noise one batch does for all.
        allow_pipes: run commands that stand in place of files.

    Raises:
        UserError: no recordings that fit, or one that cannot be read.
    """
    if is_noise(data):
        return [noise_of(seconds, batch)]
    size, needed = round(seconds * SAMPLE_RATE), repeats * batch
    sets = (_pieces(folder, size, allow_pipes) for folder in data)
    found = list(itertools.islice(itertools.chain.from_iterable(sets), needed))
    if not found:
        raise UserError(
            f"{' '.join(map(str, data))}: no recordings of {_FULL * seconds:g} to "
            f"{seconds:g} s, joined or not; name another set, or other --durations"
        )
    found = list(itertools.islice(itertools.cycle(found), needed))
    return [found[i : i + batch] for i in range(0, needed, batch)]


def _pieces(folder: Path, size: int, allow_pipes: bool) -> Iterator[Piece]:
    """All of a set, of ``size`` samples each; a recording that fits nowhere is not."""
    # soundfile and scipy: not for noise
    from espnet_llada.io.audio.reading import load_audio

    table = read_recordings(folder / "wav.scp", allow_pipes)
    path = folder / "text"
    texts = read_text(path) if path.is_file() else {}
    names: list[str] = []
    parts: list[np.ndarray] = []
    for name, place in table.items():
        samples = load_audio(place)
        whole = sum(map(len, parts))
        if whole + len(samples) > size and whole >= _FULL * size:
            yield _joined(names, parts, size, texts)
            names, parts, whole = [], [], 0
        if whole + len(samples) <= size:
            names, parts = [*names, name], [*parts, samples]
    if sum(map(len, parts)) >= _FULL * size:
        yield _joined(names, parts, size, texts)


def _joined(
    names: Sequence[str],
    parts: Sequence[np.ndarray],
    size: int,
    texts: Mapping[str, str],
) -> Piece:
    samples = np.concatenate(parts)
    known = all(name in texts for name in names)
    text = " ".join(texts[name] for name in names) if known else ""
    return Piece("+".join(names), np.pad(samples, (0, size - len(samples))), text)
