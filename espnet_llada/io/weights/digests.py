"""Digests of weights files, and whether a file still is what was once written.

Its checksum file says it (see ``io.files``); else the pinned asset that its
directory was made of, or the hub.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from espnet_llada.io.data_file import read_json, write_json
from espnet_llada.io.files import cache_dir, damaged, read_checksum, sha256
from espnet_llada.types import UserError

MARKER = "weights.json"
"""In a directory that was made of a pinned asset; has the digest of its weights."""

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".gguf")

LARGE = 128 << 20
"""Bytes. Smaller files are hashed in every process (Whisper tiny.en: 0.05 s); a larger
one when it is first seen or has been written to, and by ``espnet-llada weights
--verify``."""

_of_this_process: dict[str, list] = {}


def cached_sha256(path: Path, fresh: bool = False) -> str:
    """Digest of a file, kept for the next time; see ``LARGE``.

    Args:
        path: the file.
        fresh: read it now, whatever is known of it.
    """
    stat = path.stat()
    store = cache_dir() / "digests.json" if stat.st_size >= LARGE else None
    known = _of_this_process
    if store:
        known = {}
        with contextlib.suppress(UserError):
            known = read_json(store, dict[str, list])
    # st_ctime tells of a write after which st_mtime was set back.
    state = [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
    key = str(path.resolve())
    found = known.get(key)
    if fresh or not isinstance(found, list) or found[:-1] != state:
        known[key] = found = [*state, sha256(path)]
        if store:
            with contextlib.suppress(OSError, UserError):  # only a cache
                store.parent.mkdir(parents=True, exist_ok=True)
                write_json(store, known)
    return found[-1]


def recorded_sha256(path: Path) -> str | None:
    """The digest that a file should have: of its checksum file, its asset or the hub.

    Raises:
        UserError: a checksum that cannot be read.
    """
    return read_checksum(path) or _of_asset(path) or _of_hub(path)


def _of_asset(path: Path) -> str | None:
    content = read_marker(path.parent).get("content_sha256")
    # Of the directory's weights; so it says nothing when other files were added.
    return content if content and weight_files(path.parent) == [path] else None


def read_marker(directory: Path) -> dict[str, str]:
    """What a directory records of the asset that it was made from; else empty."""
    with contextlib.suppress(UserError):
        return read_json(directory / MARKER, dict[str, str])
    return {}


def _of_hub(path: Path) -> str | None:
    """huggingface_hub stores a large file under its digest, behind a link."""
    file = path.resolve()
    blob = file.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", file.name)
    return file.name if blob else None


def weight_files(directory: Path) -> list[Path]:
    """The files of a directory that hold tensors, by name."""
    return sorted(f for f in directory.iterdir() if f.suffix in WEIGHT_SUFFIXES)


def verify(path: Path, fresh: bool = False) -> bool:
    """Compare a file with what was recorded of it; False where nothing was.

    Raises:
        UserError: it is damaged; the message says where to get it anew.
    """
    wanted = recorded_sha256(path)
    if wanted is None:
        return False
    if cached_sha256(path, fresh) != wanted:
        raise damaged(path)
    return True
