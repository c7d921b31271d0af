"""Kaldi data directories: tables of ``key value`` lines, sorted in the C locale."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_llada.io.data_file import write_text
from espnet_llada.io.kaldi.table import read_recordings, read_table
from espnet_llada.types import UserError


def write_table(path: Path, table: Mapping[str, str]) -> None:
    """Write ``key value`` lines, sorted by key, all or nothing."""
    # Code points order as UTF-8 bytes do, so sorted() is `LC_ALL=C sort`.
    lines = (f"{key} {table[key]}".rstrip() + "\n" for key in sorted(table))
    write_text(path, "".join(lines))


def make_dir(path: Path) -> Path:
    """Make ``path`` and its parents.

    Raises:
        UserError: that is not possible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(
            f"{path}: cannot make this directory ({e.strerror}); choose a writable one"
        ) from e
    return path


@dataclass(frozen=True)
class DataDir:
    """What a data directory says about each utterance.

    Attributes:
        wav: utterance id to audio path (``wav.scp``).
        text: utterance id to transcript.
        utt2spk: utterance id to speaker id.
    """

    wav: Mapping[str, str]
    text: Mapping[str, str]
    utt2spk: Mapping[str, str]

    @classmethod
    def read(cls, path: Path, allow_pipes: bool = False) -> DataDir:
        """Read and check a directory; of ``allow_pipes`` see ``read_scp``.

        Raises:
            UserError: a file is missing or bad, or an utterance is not in all.
        """
        if not path.is_dir():
            raise UserError(f"{path}: no such data directory; run stage 1 first")
        names = ("wav.scp", "text", "utt2spk")
        tables = [
            read_recordings(path / "wav.scp", allow_pipes),
            read_table(path / "text"),
            read_table(path / "utt2spk", "speaker"),
        ]
        every = set().union(*tables)
        for name, table in zip(names, tables, strict=True):
            if missing := every - table.keys():
                raise UserError(
                    f"{path}/{name}: no line for '{min(missing)}'; run stage 1 again"
                )
        return cls(*tables)

    def write(self, path: Path) -> None:
        """Write ``text``, ``utt2spk``, ``spk2utt`` and, last, ``wav.scp``."""
        make_dir(path)
        utts: dict[str, list[str]] = defaultdict(list)
        for utt in sorted(self.utt2spk):
            utts[self.utt2spk[utt]].append(utt)
        write_table(path / "text", self.text)
        write_table(path / "utt2spk", self.utt2spk)
        write_table(path / "spk2utt", {s: " ".join(own) for s, own in utts.items()})
        write_table(path / "wav.scp", self.wav)

    def keep(self, utts: Collection[str]) -> DataDir:
        """The same directory with only ``utts``."""
        tables = self.wav, self.text, self.utt2spk
        return DataDir(*({u: table[u] for u in utts} for table in tables))


def split_table(path: Path, parts: Sequence[Path]) -> None:
    """Cut a table into runs of lines whose counts differ by at most one."""
    table = read_table(path)
    keys = sorted(table)
    for i, part in enumerate(parts):
        first, last = (len(keys) * n // len(parts) for n in (i, i + 1))
        write_table(part, {key: table[key] for key in keys[first:last]})
