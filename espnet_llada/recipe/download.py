"""Fetches and unpacks LibriSpeech, resumed and verified.

    python -m espnet_llada.recipe.download --dir downloads dev-clean test-clean

Whatever stops it, run it again: a broken transfer goes on where it was, and a subset
appears under its name only when it was unpacked wholly.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout
from tqdm import tqdm

from espnet_llada.bin.options import OptionParser, run_main
from espnet_llada.io.files import make_dir, sha256, write_text
from espnet_llada.io.weights.download import (
    NETWORK_ERRORS,
    FetchError,
    fetch_file,
    size_of,
)
from espnet_llada.recipe.logs import log_to_stdout
from espnet_llada.recipe.subsets import SUBSETS
from espnet_llada.types import UserError, nearest

logger = logging.getLogger(__name__)

URL = "https://www.openslr.org/resources/12"
MARKER = ".completed"
_CORPUS = "LibriSpeech"  # the directory in which every archive unpacks
_UNPACKED = 1.1  # bytes on disk per byte of archive: FLAC hardly compresses further


def fetch_subsets(
    root: Path, subsets: Sequence[str], url: str = URL, keep_archives: bool = False
) -> None:
    """Have the subsets at ``root/LibriSpeech/<subset>``.

    One that has a directory there is left alone, whoever unpacked it; one unpacked here
    holds ``.completed`` with the archive's sha256.

    Args:
        root: made if it is not there; archives land in it, too.
        subsets: names in ``SUBSETS``.
        url: below which ``<subset>.tar.gz`` lies.
        keep_archives: keep an archive after it was unpacked.

    Raises:
        UserError: no such subset, no space, no network, or another content than the
            published one.
    """
    root = root.parent if root.name == _CORPUS else root
    missing = [s for s in subsets if not (root / _CORPUS / s).is_dir()]
    for subset in missing:
        if subset not in SUBSETS:
            known = nearest(subset, SUBSETS) or f"; known: {', '.join(SUBSETS)}"
            raise UserError(f"{subset}: LibriSpeech has no such subset{known}")
    if not missing:
        return
    with _locked(make_dir(root)):
        _check_space(root, missing, keep_archives)
        for subset in missing:
            if (root / _CORPUS / subset).is_dir():
                continue  # another process was at it
            archive = root / f"{subset}.tar.gz"
            try:
                _fetch(archive, subset, f"{url.rstrip('/')}/{archive.name}")
                _unpack(archive, subset, root)
                if not keep_archives:
                    archive.unlink()
            except OSError as e:
                reason = e.strerror or e
                raise UserError(f"{archive}: {reason}; then run it again") from e


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    lock = FileLock(root / ".lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        logger.info("%s: another process downloads into it; waiting", root)
        held = lock.acquire()
    except OSError as e:
        raise UserError(
            f"{root}: cannot write here ({e.strerror}); name another directory"
        ) from e
    with held:
        yield


def _check_space(root: Path, missing: Sequence[str], keep_archives: bool) -> None:
    """Refuse before hours of download what would not fit in the end."""
    used = peak = 0.0
    for subset in missing:
        archive, size = root / f"{subset}.tar.gz", SUBSETS[subset].size
        here = size_of(archive) or size_of(archive.with_suffix(".part"))
        used += max(size - here, 0) + _UNPACKED * size
        peak = max(peak, used)
        used -= 0 if keep_archives else size
    free = shutil.disk_usage(root).free
    if free < peak:
        raise UserError(
            f"{root}: {peak / 1e9:.1f} GB are needed here, {free / 1e9:.1f} GB are "
            "free; name a directory on a larger disk"
        )


def _fetch(archive: Path, subset: str, url: str) -> None:
    known = SUBSETS[subset]
    if archive.exists():
        if sha256(archive) == known.sha256:
            return
        raise UserError(f"{archive}: not the published archive; remove or rename it")
    logger.info("%s: fetching %.1f GB into %s", url, known.size / 1e9, archive.parent)
    try:
        fetch_file(url, archive, known.sha256, known.size, subset)
    except FetchError as e:
        raise UserError(f"{url}: {e}") from e
    except (*NETWORK_ERRORS, ValueError) as e:  # ValueError: no URL at all
        mend = "run it again to resume, or name a mirror (--download_url)"
        raise UserError(f"{url}: cannot be fetched ({e}); {mend}") from e


def _unpack(archive: Path, subset: str, root: Path) -> None:
    scratch = root / f".unpacking-{subset}"
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
    try:
        _extract(archive, scratch)
        unpacked = scratch / _CORPUS / subset
        if not unpacked.is_dir():
            raise UserError(f"{archive}: has no {_CORPUS}/{subset}; remove it")
        write_text(unpacked / MARKER, f"{SUBSETS[subset].sha256}\n")
        make_dir(root / _CORPUS)
        for file in (scratch / _CORPUS).iterdir():
            if file.is_file():  # README, SPEAKERS, ...: the same in every archive
                file.replace(root / _CORPUS / file.name)
        unpacked.rename(root / _CORPUS / subset)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    logger.info("%s: unpacked into %s", archive, root / _CORPUS / subset)


def _extract(archive: Path, target: Path) -> None:
    look = {"desc": f"unpack {archive.name}", "disable": None}
    # Debian 12's Python is older than the filter; _check_member is as strict anyway.
    options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    try:
        with (
            open(archive, "rb") as raw,
            tqdm.wrapattr(raw, "read", size_of(archive), **look) as counted,
            tarfile.open(fileobj=counted, mode="r|gz") as tar,
        ):
            for member in tar:
                _check_member(archive, member)
                tar.extract(member, target, **options)
    except (tarfile.TarError, EOFError) as e:
        raise UserError(f"{archive}: cannot be unpacked ({e}); remove it") from e


def _check_member(archive: Path, member: tarfile.TarInfo) -> None:
    """Only plain files and directories below ``LibriSpeech/`` may be written."""
    parts = PurePosixPath(member.name).parts
    plain = member.isfile() or member.isdir()
    if not plain or parts[:1] != (_CORPUS,) or ".." in parts:
        raise UserError(
            f"{archive}: holds '{member.name}', which is not a file of {_CORPUS}/; "
            "remove it, and do not trust where it came from"
        )


def get_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = OptionParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--dir", type=Path, default=Path("downloads"), help="where to (downloads)"
    )
    parser.add_argument(
        "--download_url", default=URL, help=f"where the archives lie ({URL})"
    )
    parser.add_argument(
        "--keep_archives", action="store_true", help="keep them when unpacked"
    )
    parser.add_argument(
        "subsets", nargs="*", default=list(SUBSETS), help="e.g. dev-clean (all seven)"
    )
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Fetch the subsets that the command line names."""
    args = get_parser().parse_args(cmd)
    log_to_stdout()
    fetch_subsets(args.dir, args.subsets, args.download_url, args.keep_archives)


if __name__ == "__main__":
    run_main(main)
