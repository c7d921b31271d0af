"""Kaldi data directories: tables of ``key value`` lines, sorted in the C locale."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_llada.types import UserError, atomic_write


def read_table(path: Path) -> dict[str, str]:
    """Read ``key value`` lines; the value may be empty (a blank transcript).

    Raises:
        UserError: the file is missing, or has one of ``scan_table``'s complaints.
    """
    table, complaints = scan_table(path)
    if complaints:
        raise UserError(complaints[0])
    return table


def scan_table(path: Path) -> tuple[dict[str, str], list[str]]:
    """Read ``key value`` lines as far as they can be read.

    Returns:
        The table (of a key that occurs twice, the last line), and a line for each
        thing to mend: no UTF-8, a blank line, a key twice, CRLF.

    Raises:
        UserError: the file is missing or cannot be read at all.
    """
    table: dict[str, str] = {}
    complaints = []
    try:
        with open(path, "rb") as lines:
            for number, raw in enumerate(lines, 1):
                line, complaint = _decode(raw)
                key, *value = line.split(maxsplit=1) or [""]
                if not key:
                    complaint = "blank line; remove it"
                elif key in table:
                    complaint = f"'{key}' occurs twice; keep one"
                if complaint:
                    complaints.append(f"{path}:{number}: {complaint}")
                if key:
                    table[key] = value[0].strip() if value else ""
                if raw.endswith(b"\r\n") and number == 1:
                    mend = f"sed -i 's/\\r$//' {path}"
                    complaints.append(f"{path}: has Windows line ends (CRLF): {mend}")
    except FileNotFoundError as e:
        raise UserError(f"{path}: no such file; run the stage that makes it") from e
    except OSError as e:
        raise UserError(f"{path}: cannot read it ({e.strerror})") from e
    return table, complaints


def _decode(raw: bytes) -> tuple[str, str]:
    try:
        return raw.decode("utf-8"), ""
    except UnicodeDecodeError as e:
        complaint = f"not UTF-8 (byte {e.start}); convert the file with iconv"
        return raw.decode("utf-8", "replace"), complaint


def write_table(path: Path, table: Mapping[str, str]) -> None:
    """Write ``key value`` lines, sorted by key, all or nothing."""
    # Code points order as UTF-8 bytes do, so sorted() is `LC_ALL=C sort`.
    with atomic_write(path) as temporary:
        lines = (f"{key} {table[key]}".rstrip() + "\n" for key in sorted(table))
        with open(temporary, "w", encoding="utf-8", newline="\n") as f:
            f.writelines(lines)


def write_line(path: Path, line: str) -> None:
    """Write a one-line file such as ``feats_type``."""
    with atomic_write(path) as temporary:
        temporary.write_text(line + "\n", encoding="utf-8")


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
    def read(cls, path: Path) -> DataDir:
        """Read and check a directory.

        Raises:
            UserError: a file is missing or unusable, or an utterance is not in all.
        """
        if not path.is_dir():
            raise UserError(f"{path}: no such data directory; run stage 1 first")
        if (path / "segments").exists():
            raise UserError(
                f"{path}/segments: not supported here; run in an ESPnet checkout"
            )
        names = ("wav.scp", "text", "utt2spk")
        tables = [read_table(path / name) for name in names]
        every = set().union(*tables)
        for name, table in zip(names, tables, strict=True):
            if missing := every - table.keys():
                raise UserError(
                    f"{path}/{name}: no line for '{min(missing)}'; run stage 1 again"
                )
        if not every:
            raise UserError(f"{path}/wav.scp: no utterances; run stage 1 again")
        return cls(*tables)

    def write(self, path: Path) -> None:
        """Write ``text``, ``utt2spk``, ``spk2utt`` and, last, ``wav.scp``."""
        make_dir(path)
        speakers: dict[str, list[str]] = defaultdict(list)
        for utt in sorted(self.utt2spk):
            speakers[self.utt2spk[utt]].append(utt)
        write_table(path / "text", self.text)
        write_table(path / "utt2spk", self.utt2spk)
        write_table(
            path / "spk2utt", {spk: " ".join(utts) for spk, utts in speakers.items()}
        )
        write_table(path / "wav.scp", self.wav)

    def keep(self, utts: Collection[str]) -> DataDir:
        """The same directory with only ``utts``."""
        return DataDir(
            *(
                {u: table[u] for u in utts}
                for table in (self.wav, self.text, self.utt2spk)
            )
        )


def split_table(path: Path, parts: Iterable[Path]) -> None:
    """Cut a table into runs of lines whose counts differ by at most one."""
    table, parts = read_table(path), list(parts)
    keys = sorted(table)
    for i, part in enumerate(parts):
        first, last = (len(keys) * n // len(parts) for n in (i, i + 1))
        write_table(part, {key: table[key] for key in keys[first:last]})
