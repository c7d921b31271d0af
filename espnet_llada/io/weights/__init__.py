"""Where pretrained weights come from: names known here, local paths, or a model hub.

``io.weights.assets`` lists the names; ``espnet-llada weights NAME…`` fetches ahead.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_llada.io.files import (
    LARGE,
    cache_dir,
    checksum_line,
    damaged,
    read_checksum,
    read_json,
    sha256,
    write_json,
)
from espnet_llada.types import UserError, local_path, nearest

if TYPE_CHECKING:
    from espnet_llada.io.weights.assets import Asset


@dataclass(frozen=True)
class Weights:
    """Resolved weights.

    Attributes:
        name: as the user wrote it.
        path: a file (openai-whisper ``.pt``) or a Hugging Face directory.
        sha256: identity of the weights, independent of where they lie.
    """

    name: str
    path: Path
    sha256: str


def resolve(name_or_path: str | os.PathLike, kind: str) -> Weights:
    """Find weights, fetching them first where needed.

    Args:
        name_or_path: a name in ``ASSETS``, else an existing file or directory, else a
            hub id ``owner/model[@revision]``. A local directory that is called like an
            asset can be named ``./smollm2-135m``.
        kind: ``whisper`` or ``lm``; an asset of the other kind is refused.

    Raises:
        UserError: unknown name, no weights in a directory, or nothing could be
            fetched (the message then says what to copy from where).
    """
    name = str(name_or_path)
    if "/" not in name and (found := _named(name, kind)):
        return found
    path = local_path(name)
    if path.exists():
        return Weights(name, path, identity(path))
    if re.fullmatch(HUB_ID, name):
        path = from_hub(name)
        return Weights(name, path, identity(path))
    from espnet_llada.io.weights.assets import ASSETS

    known = [n for n, a in ASSETS.items() if a.kind == kind]
    raise UserError(
        f"{name}: no such {kind} weights{nearest(name, known)}; name one of "
        f"{', '.join(known)}, an existing path, or a hub id owner/model"
    )


def _named(name: str, kind: str) -> Weights | None:
    """Weights of ``ASSETS``."""
    from espnet_llada.io.weights.assets import ASSETS, Asset

    if name not in ASSETS:
        return None
    asset = ASSETS[name]
    if asset.kind != kind:
        raise UserError(f"{name}: these are {asset.kind} weights, not {kind} weights")
    if isinstance(asset, Asset):
        return _pinned(name, asset)
    if asset.path.exists():
        return Weights(name, asset.path, identity(asset.path))
    raise UserError(
        f"{name}: this installation of espnet_llada lacks {asset.path}; install it "
        "with its mini directory, or name a local directory of weights instead"
    )


def _pinned(name: str, asset: Asset) -> Weights:
    """The weights of an asset, fetched where they are not in the cache."""
    home = cache_dir() / name
    if not (home / MARKER).is_file():
        from espnet_llada.io.weights.fetching import build

        build(name, asset, home / MARKER, content_digest)
    path = home / Path(asset.member).name if asset.kind == "whisper" else home
    if identity(home) != asset.sha256:
        raise UserError(f"{home}: damaged or changed; delete it, to have it made anew")
    return Weights(name, path, asset.sha256)


HUB_ID = r"\w[\w.-]*/[\w.-]+(@[\w./-]+)?"
"""``owner/model``, and perhaps ``@revision``."""


def from_hub(
    name: str, patterns: Sequence[str] = ("*.safetensors", "*.json", "*.txt")
) -> Path:
    """A local snapshot of a hub repository: never pickles, never code.

    Args:
        name: ``owner/model``, or ``owner/model@revision``.
        patterns: the files that are fetched, but no second copy in float32.

    Raises:
        UserError: offline, unknown, gated or private, or no such revision.
    """
    from huggingface_hub import snapshot_download

    model, _, revision = name.partition("@")
    options = {"allow_patterns": list(patterns), "ignore_patterns": ["*fp32*"]}
    try:
        return Path(snapshot_download(model, revision=revision or None, **options))
    except Exception as e:  # its errors come from several libraries
        raise UserError(
            f"{name}: cannot fetch it from the model hub ({_hub_problem(e, model)}); "
            "check the id and the connection, or name a local directory instead"
        ) from e


def _hub_problem(error: Exception, model: str) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):  # is a RepositoryNotFoundError too
        page = f"https://huggingface.co/{model}"
        return f"gated: accept its terms at {page}, then set HF_TOKEN or hf auth login"
    if isinstance(error, errors.RevisionNotFoundError):
        return "no such revision of it"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such model, or a private one"
    return str(error).strip().partition("\n")[0]


def identity(path: Path) -> str:
    """The digest of the asset that a directory was made from, else of its content.

    Raises:
        UserError: a file is damaged; or the directory holds no weights.
    """
    content = content_digest(path, _checked_sha256)
    marker = read_marker(path)
    same = marker.get("content_sha256") == content
    return marker.get("sha256", content) if same else content


def _checked_sha256(path: Path) -> str:
    verify(path)
    return cached_sha256(path)


def content_digest(path: Path, digest: Callable[[Path], str]) -> str:
    """The sha256 of one weights file; of several: of their digests in name order."""
    files = [path] if path.is_file() else []
    if path.is_dir():  # neither: a device, which may have no end
        files = weight_files(path)
    if not files:
        kinds = " ".join(WEIGHT_SUFFIXES)
        raise UserError(f"{path}: no weights in this place (one of {kinds})")
    if len(files) == 1:
        return digest(files[0])
    lines = "".join(checksum_line(digest(f), f.name) for f in files)
    return hashlib.sha256(lines.encode()).hexdigest()


MARKER = "weights.json"
"""In a directory that was made of a pinned asset; has the digest of its weights."""

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".gguf")

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
