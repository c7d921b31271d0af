"""The checksum beside a file of ours: ``NAME.sha256``, as sha256sum writes it.

Tensors, configs and tokenizers have one where this package has made the directory. A
file without one (a user's own) is taken as it is.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from espnet_llada.types import UserError, local_path

SUFFIX = ".sha256"
TEXT_SUFFIXES = (".json", ".yaml")


def cache_dir() -> Path:
    """``$ESPNET_LLADA_CACHE``, or ``~/.cache/espnet_llada``."""
    path = os.environ.get("ESPNET_LLADA_CACHE") or "~/.cache/espnet_llada"
    return local_path(path).absolute()


def checksum_file(path: Path) -> Path:
    """Where the checksum of a file lies."""
    return path.with_name(path.name + SUFFIX)


def checksum_line(digest: str, name: str) -> str:
    """The content of ``checksum_file``."""
    return f"{digest}  {name}\n"


def checksum_of(content: bytes, name: str) -> bytes:
    """The checksum of a small file, to be written beside it."""
    return checksum_line(hashlib.sha256(content).hexdigest(), name).encode()


def write_checksums(directory: Path) -> None:
    """Write those of the configs and tokenizers in a directory that was just made."""
    for file in directory.iterdir():
        if file.suffix in TEXT_SUFFIXES and not checksum_file(file).exists():
            checksum_file(file).write_bytes(checksum_of(file.read_bytes(), file.name))


def written_beside(path: Path) -> str | None:
    """The digest beside a file, if any.

    Raises:
        UserError: a checksum that cannot be read.
    """
    beside = checksum_file(path)
    if not os.path.isfile(beside):  # nor where the name is too long
        return None
    text = beside.read_text(encoding="utf-8", errors="replace")
    if found := re.match(r"\\?([0-9a-fA-F]{64})\s", text + "\n"):
        return found[1].lower()
    raise UserError(f"{beside}: not what sha256sum writes; delete it, or copy it again")


def check_content(path: Path, content: bytes) -> bytes:
    """The content of a small file, compared with the checksum beside it.

    Raises:
        UserError: it is damaged; the message says where to get it anew.
    """
    wanted = written_beside(path) if path.name else None
    if wanted not in (None, hashlib.sha256(content).hexdigest()):
        raise damaged(path)
    return content


def damaged(path: Path) -> UserError:
    """That a file is not what was once written."""
    return UserError(
        f"{path}: damaged or changed, its sha256 is not the recorded one; {_mend(path)}"
    )


def _mend(path: Path) -> str:
    if not path.is_relative_to(cache_dir()):
        changed = f" (changed on purpose: delete {checksum_file(path).name})"
        return "copy, make or install it again" + (
            changed if checksum_file(path).exists() else ""
        )
    parts = path.relative_to(cache_dir()).parts
    if parts[0] == "models":
        return "publish it again"
    made = cache_dir().joinpath(*parts[: 2 if parts[0] == "packs" else 1])
    return f"delete {made}, to have it made anew"
