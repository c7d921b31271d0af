"""Makes recordings and corpora for the recipe's tests."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import soundfile

from espnet_llada.recipe.datadir import Utterance, write_data_dir

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "egs2" / "librispeech" / "asr_llada"
LOCAL = RECIPE / "local"

# In place of python3: notes its arguments, and does nothing where a model would run.
_SHIM = """#!/bin/bash
printf '%s ' "$@" >> "{noted}"
echo >> "{noted}"
case "$*" in
{cases}
    *) exec "{python}" "$@" ;;
esac
"""


def local_script(name: str) -> ModuleType:
    """``local/<name>.py`` as a module; the scripts beside it can be imported by it."""
    if str(LOCAL) not in sys.path:
        sys.path.append(str(LOCAL))
    return importlib.import_module(name)  # so that processes find it by its name too


def copy_scripts(copy: Path) -> None:
    """The recipe's scripts, without its configs, models and what runs have left."""
    left = shutil.ignore_patterns("data", "dump", "exp*", "conf", "mini", ".*")
    shutil.copytree(RECIPE, copy, ignore=left)


def write_shim(folder: Path, noted: Path, cases: str) -> None:
    """A ``python3`` in ``folder`` for ``run_script``.

    Args:
        folder: made here.
        noted: gets a line of arguments for each call.
        cases: bash's, of the calls that are not handed on to Python.
    """
    folder.mkdir()
    shim = folder / "python3"
    shim.write_text(_SHIM.format(noted=noted, cases=cases, python=sys.executable))
    shim.chmod(0o755)


def run_script(
    recipe: Path, shims: Path, *command: str, **env: str
) -> subprocess.CompletedProcess:
    """Run one of the recipe's scripts; programs in ``shims`` come first."""
    path = [str(shims), str(Path(sys.executable).parent), os.environ["PATH"]]
    paths = {"PATH": os.pathsep.join(path), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command,
        cwd=recipe,
        env={**os.environ, **paths, **env},
        capture_output=True,
        text=True,
        check=False,
    )


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
