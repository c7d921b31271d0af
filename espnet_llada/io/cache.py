"""The user's cache, and directories that are made whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from espnet_llada.types import UserError, local_path


def cache_dir() -> Path:
    """``$ESPNET_LLADA_CACHE``, or ``~/.cache/espnet_llada``."""
    path = os.environ.get("ESPNET_LLADA_CACHE") or "~/.cache/espnet_llada"
    return local_path(path).absolute()


def not_writable(path: Path, error: OSError) -> UserError:
    """That the cache is full or read-only."""
    return UserError(
        f"{error.filename or path}: {error.strerror or error}; free some space, or set "
        "ESPNET_LLADA_CACHE to a writable directory"
    )


@contextlib.contextmanager
def new_directory(home: Path) -> Iterator[Path]:
    """Yield a hidden directory to fill; one rename then makes it ``home``.

    A ``home`` that is not empty by then, as of a faster process, stays as it is.
    """
    home.parent.mkdir(parents=True, exist_ok=True)
    temporary = home.with_name(f".{home.name}.tmp.{secrets.token_hex(4)}")
    temporary.mkdir()  # with the umask's permissions, unlike mkdtemp
    try:
        yield temporary
        try:
            temporary.rename(home)
        except OSError:
            if not home.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
