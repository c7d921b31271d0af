"""Makes recordings and corpora for the recipe's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from espnet_llada.recipe.datadir import Utterance, write_data_dir

RECIPE = Path(__file__).parents[2] / "egs2" / "librispeech" / "asr_llada"


def write_audio(path: Path, seconds: float = 0.5, rate: int = 16000, channels: int = 1):
    """Noise of the given shape, 16-bit, format by suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (int(seconds * rate), channels)
    noise = np.random.default_rng(0).normal(0.0, 0.1, shape)
    soundfile.write(path, noise, rate, subtype="PCM_16")


def write_set(path: Path, audio: dict[str, str], speaker: str = "s") -> None:
    """A data directory of recordings that all have the same transcript."""
    write_data_dir(path, [Utterance(u, speaker, a, "A B") for u, a in audio.items()])


def write_chapter(root: Path, subset: str, name: str, count: int, seconds: float = 0.5):
    """A chapter of ``count`` utterances; ``name`` is ``speaker-chapter``."""
    speaker, chapter = name.split("-")
    folder = root / "LibriSpeech" / subset / speaker / chapter
    lines = []
    for i in range(count):
        write_audio(folder / f"{name}-{i:04d}.flac", seconds)
        lines.append(f"{name}-{i:04d} WORDS OF {i}\n")
    (folder / f"{name}.trans.txt").write_text("".join(lines))
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
