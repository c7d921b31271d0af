"""Frames of the frozen encoder on disk, as Kaldi archives that ESPnet reads.

A directory holds shards (``frames.N.ark``), next to each shard what is in it and its
sha256 (``frames.N.json``), the encoder they come from (``features.json``), and the
tables of a Kaldi data directory (``feats.scp``, ``feats_shape``, …). A shard is written
whole or not at all, so a killed run loses at most the shard it was at.

Entries are float matrices of Kaldi's (``float32``) or NumPy arrays as kaldiio stores
them (``float16``); frames of a bf16 encoder lose nothing in either.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from msgspec import Struct

from espnet_llada.io.files import read_json, sha256, write_json, write_text
from espnet_llada.io.kaldi.archive import parse_place, read_entry
from espnet_llada.io.kaldi.pipe import is_command
from espnet_llada.io.kaldi.table import read_table
from espnet_llada.io.schema import Natural
from espnet_llada.types import UserError

log = logging.getLogger(__name__)

_IDENTITY = "features.json"
_AGAIN = "run `espnet-llada features` again"


@dataclass(frozen=True)
class Entry:
    """Where the frames of an utterance lie.

    Attributes:
        ark, offset: the shard, and the byte in it at which the array begins.
        frames: rows of the array.
        source: path of the recording.
    """

    ark: Path
    offset: int
    frames: int
    source: str


@contextlib.contextmanager
def locked(directory: Path, wanted: Mapping[str, Any]) -> Iterator[None]:
    """Make ``directory`` a cache of that encoder, with nobody else writing to it.

    Raises:
        UserError: it holds frames of another encoder or of unknown origin, another
            run is at it, or it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / ".lock", timeout=0):
            if (directory / _IDENTITY).exists():
                mend = "choose another --output or delete it"
                _check_identity(directory, wanted, mend)
                for leftover in _leftovers(directory):
                    leftover.unlink()
            elif foreign := [*directory.glob("frames.*"), *directory.glob("feats.*")]:
                raise UserError(
                    f"{foreign[0]}: not of `espnet-llada features` (there is no "
                    f"{_IDENTITY} next to it); choose another --output"
                )
            write_json(directory / _IDENTITY, dict(wanted))
            yield
    except Timeout as e:
        raise UserError(f"{directory}: another run writes here; wait for it") from e
    except OSError as e:
        raise UserError(
            f"{directory}: cannot write it ({e.strerror}); choose another --output"
        ) from e


def _leftovers(directory: Path) -> list[Path]:
    """Leftovers of a killed run: temporary files, shards without description."""
    whole = directory.glob("frames.*.ark")
    undescribed = [ark for ark in whole if not ark.with_suffix(".json").is_file()]
    return [*directory.glob(".frames.*"), *undescribed]


def stored_entries(
    directory: Path, storage: str | None = None, verify: bool = False
) -> dict[str, Entry]:
    """Everything that whole shards hold; others are named in a warning.

    Args:
        directory: of the cache.
        storage: only shards of this kind; all by default.
        verify: compare checksums too, which reads every shard.
    """
    entries: dict[str, Entry] = {}
    # In the order of writing: an utterance whose recording changed is there twice.
    for ark in sorted(directory.glob("frames.*.ark"), key=_number):
        content = _description(ark)
        problem = _damage(ark, content, verify)
        if problem:
            log.warning("%s: %s; it will be made again", ark, problem)
        elif storage in (None, content.storage):
            for utt_id, (offset, frames, source) in content.entries.items():
                entries[utt_id] = Entry(ark, offset, frames, source)
    return entries


class _Shard(Struct):
    """What ``write_shard`` writes about an archive."""

    storage: str
    bytes: Natural
    sha256: str
    entries: dict[str, tuple[Natural, Natural, str]]


def _description(ark: Path) -> _Shard | None:
    """What ``write_shard`` has written about ``ark``; None where that is no use."""
    with contextlib.suppress(UserError):
        return read_json(ark.with_suffix(".json"), _Shard)


def _damage(ark: Path, content: _Shard | None, verify: bool) -> str:
    if not ark.is_file():
        return "missing"
    if content is None:
        return "not described by the .json next to it"
    size = ark.stat().st_size
    if size != content.bytes:
        return f"holds {size} bytes, {content.bytes} were written"
    if verify and sha256(ark) != content.sha256:
        return "its sha256 is not that of what was written"
    return ""


def next_shard(directory: Path) -> int:
    """A number that no shard has had."""
    return 1 + max(map(_number, directory.glob("frames.*.*")), default=0)


def _number(shard: Path) -> int:
    number = shard.name.split(".")[1]
    return int(number) if number.isdecimal() else 0


def write_tables(
    directory: Path, entries: Mapping[str, Entry], utt_ids: Iterable[str], width: int
) -> None:
    """``feats.scp`` and what asr.sh's ``--feats_type extracted`` looks for."""
    chosen = {utt_id: entries[utt_id] for utt_id in sorted(utt_ids)}
    # As given, not absolute: a recipe moves with its directory, as dump/raw does.
    scp = "".join(f"{u} {e.ark}:{e.offset}\n" for u, e in chosen.items())
    shapes = "".join(f"{u} {e.frames},{width}\n" for u, e in chosen.items())
    for name, text in (
        ("feats_shape", shapes),
        ("feats_dim", f"{width}\n"),
        ("feats_type", "extracted\n"),
        ("feats.scp", scp),  # the last one: where it is, all is there
    ):
        write_text(directory / name, text)


def check_scp(scp: Path, wanted: Mapping[str, Any]) -> None:
    """Refuse cached frames that the encoder of a config would not make.

    A ``scp`` of waveforms passes; so does a command, which is run (or refused) where
    training reads it. Sizes of the shards are compared, checksums are not:
    ``espnet-llada features --verify true`` does that.

    Raises:
        UserError: another encoder or other padding, frames of unknown origin, a shard
            that is cut or missing; names the file.
    """
    places = read_table(scp, "path").values()
    place_in = {parse_place(p).file: p for p in places if not is_command(p)}
    one_of = {ark.parent: place for ark, place in place_in.items()}
    for directory, place in one_of.items():
        if (directory / _IDENTITY).is_file():
            mend = f"{_AGAIN} with this config and another --output"
            _check_identity(directory, wanted, mend)
        elif not isinstance(read_entry(place), tuple):  # no waveforms
            raise UserError(
                f"{scp}: features without {directory / _IDENTITY}, so of an unknown "
                "encoder; make them with `espnet-llada features`"
            )
    for ark in sorted(place_in):
        ours = (ark.parent / _IDENTITY).is_file()
        if ours and (problem := _damage(ark, _description(ark), verify=False)):
            raise UserError(f"{ark}: {problem}; {_AGAIN}, it makes it anew")


def _check_identity(directory: Path, wanted: Mapping[str, Any], mend: str) -> None:
    file = directory / _IDENTITY
    try:
        have = read_json(file)
    except UserError as e:
        raise UserError(f"{e}; {mend}") from e
    for key, value in wanted.items():
        if key != "whisper" and have.get(key) != value:
            raise UserError(
                f"{directory}: frames of {have.get('whisper')} with {key} "
                f"{have.get(key)}, but the config says {wanted['whisper']} with {key} "
                f"{value}; {mend}"
            )
