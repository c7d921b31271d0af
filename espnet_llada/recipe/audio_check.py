"""Finds recordings that are empty, cut short or broken before training does."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from espnet_llada.recipe.logs import progress_bar
from espnet_llada.recipe.problems import Problems
from espnet_llada.types import UserError

CHECKS = ("none", "size", "header", "decode")
"""``none`` only needs the file's name. ``size`` finds empty files. ``header`` decodes
the last sample (0.5 ms a file), which a FLAC that lost even one byte at its end lacks;
of other formats that says nothing, and they are decoded.
``decode`` decodes everything (about 1 ms for 5 s of speech), so it also finds damage in
the middle; stage 3 does so in any case."""

_THREADS = min(8, os.cpu_count() or 1)  # libsndfile runs outside Python's lock
_BATCH = 4096  # pool.map would queue every path at once


def check_audio(paths: Sequence[str], how: str, problems: Problems) -> None:
    """Check recordings, and add what is wrong to ``problems`` in their order.

    Args:
        paths: of files that are there.
        how: one of ``CHECKS``.
        problems: takes one complaint for each broken recording.
    """
    if how == "none":
        return
    check, remaining = functools.partial(_complaint, _CHECKS[how]), iter(paths)
    bar = progress_bar(len(paths), f"check audio ({how})")
    with bar, ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(islice(remaining, _BATCH)):
            for complaint in pool.map(check, batch):
                if complaint:
                    problems.add(complaint)
                bar.update()


def _complaint(check: Callable[[str], str | None], path: str) -> str | None:
    try:
        return check(path)
    except OSError as e:
        return f"{path}: cannot read it ({e.strerror}); copy it again"


def _check_size(path: str) -> str | None:
    if os.stat(path).st_size == 0:
        return f"{path}: empty file (0 bytes); copy it again"
    return None


def _check_end(path: str) -> str | None:
    import soundfile

    if empty := _check_size(path):
        return empty
    try:
        with soundfile.SoundFile(path) as f:
            if f.format != "FLAC":
                return _check_all(path)
            f.seek(max(f.frames - 1, 0))
            if len(f.read(1, dtype="int16")) == 1:
                return None
    except soundfile.LibsndfileError:
        pass
    return _check_all(path)  # which says what is wrong with it


def _check_all(path: str) -> str | None:
    from espnet_llada.io.audio.reading import load_audio

    try:
        load_audio(path)
    except UserError as e:
        return str(e)
    return None


_CHECKS = {"size": _check_size, "header": _check_end, "decode": _check_all}
