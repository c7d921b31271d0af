"""Kaldi data directories: tables of ``key value`` lines, sorted in the C locale."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_llada.io.files import make_dir, write_text
from espnet_llada.io.kaldi.table import read_recordings, read_table
from espnet_llada.types import UserError


def write_table(path: Path, table: Mapping[str, str]) -> None:
    """Write ``key value`` lines, sorted by key, all or nothing."""
    # Code points order as UTF-8 bytes do, so sorted() is `LC_ALL=C sort`.
    lines = (f"{key} {table[key]}".rstrip() + "\n" for key in sorted(table))
    write_text(path, "".join(lines))


def check_file(path: Path, stage: int) -> Path:
    """``path``, which a stage writes.

    Raises:
        UserError: it is not there.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; run stage {stage} first")
    return path


class Utterance(NamedTuple):
    """What a data directory says about an utterance.

    Attributes:
        utt: its id.
        audio: path of the recording (``wav.scp``).
        text: transcript.
    """

    utt: str
    speaker: str
    audio: str
    text: str


def read_data_dir(path: Path, allow_pipes: bool = False) -> dict[str, Utterance]:
    """Read and check a directory; of ``allow_pipes`` see ``read_scp``.

    Raises:
        UserError: a file is missing or bad, or an utterance is not in all.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such data directory; run stage 1 first")
    tables = {
        "wav.scp": read_recordings(path / "wav.scp", allow_pipes),
        "text": read_table(path / "text"),
        "utt2spk": read_table(path / "utt2spk", "speaker"),
    }
    every = set().union(*tables.values())
    for name, table in tables.items():
        if missing := every - table.keys():
            raise UserError(
                f"{path}/{name}: no line for '{min(missing)}'; run stage 1 again"
            )
    wav, text, utt2spk = tables.values()
    return {u: Utterance(u, utt2spk[u], wav[u], text[u]) for u in wav}


def write_data_dir(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write ``text``, ``utt2spk``, ``spk2utt`` and, last, ``wav.scp``."""
    table = sorted(utterances)
    make_dir(path)
    speakers: dict[str, list[str]] = defaultdict(list)
    for u in table:
        speakers[u.speaker].append(u.utt)
    write_table(path / "text", {u.utt: u.text for u in table})
    write_table(path / "utt2spk", {u.utt: u.speaker for u in table})
    write_table(path / "spk2utt", {s: " ".join(utts) for s, utts in speakers.items()})
    write_table(path / "wav.scp", {u.utt: u.audio for u in table})


def split_table(path: Path, parts: Sequence[Path]) -> None:
    """Cut a table into runs of lines whose counts differ by at most one."""
    table = read_table(path)
    keys = sorted(table)
    for i, part in enumerate(parts):
        first, last = (len(keys) * n // len(parts) for n in (i, i + 1))
        write_table(part, {key: table[key] for key in keys[first:last]})
