"""One table over several systems: error rates, forward passes, real-time factor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from espnet_llada.scoring.normalize import normalize_all
from espnet_llada.scoring.report import GENERATED
from espnet_llada.scoring.wer import check_ids, read_text, score_pairs
from espnet_llada.types import UserError, atomic_write

_HEADER = ("system", "set", "WER raw %", "WER norm %", "passes/utt", "RTF")
_LABELS = 2  # the first columns are text, the others numbers


@dataclass(frozen=True)
class Row:
    """One system on one set.

    Attributes:
        wer: word error rate on the text as it is, in percent.
        wer_normalised: the same after Whisper's normaliser on both sides.
        passes: mean LLM forward passes per utterance; None when not recorded.
        rtf: decode seconds over audio seconds; None when not recorded.
    """

    system: str
    set: str
    wer: float
    wer_normalised: float
    passes: float | None
    rtf: float | None

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as text; "-" for what was not recorded."""
        return (
            self.system,
            self.set,
            f"{self.wer:.2f}",
            f"{self.wer_normalised:.2f}",
            "-" if self.passes is None else f"{self.passes:.1f}",
            "-" if self.rtf is None else f"{self.rtf:.3f}",
        )


def summary_table(
    systems: list[tuple[str, Path]],
    ref_dir: str | Path,
    results_md: str | Path | None = None,
) -> str:
    """The table of ``summary_rows``, aligned for a terminal.

    Args:
        systems: label and decode directory of each system, in the order wanted.
        ref_dir: holds ``<set>/text`` for each set (``dump/raw``).
        results_md: where to write the same as a Markdown table. A file there is
            replaced only if it was generated too.

    Raises:
        UserError: as ``summary_rows``; ``results_md`` holds hand-written text.
    """
    rows = [_HEADER, *(row.cells for row in summary_rows(systems, ref_dir))]
    if results_md is not None:
        _write_markdown(rows, Path(results_md))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  ".join(
            cell.ljust(width) if i < _LABELS else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + "\n"
        for row in rows
    )


def summary_rows(systems: list[tuple[str, Path]], ref_dir: str | Path) -> list[Row]:
    """Score every ``<set>/text`` of each system's decode directory.

    Beside ``text`` may lie ``passes`` (``utt n``) and ``seconds`` (``utt decode_seconds
    audio_seconds``). ESPnet's stage 12 merges only the files it knows, so they are
    else taken from ``<set>/logdir/output.*/1best_recog``.

    Raises:
        UserError: a label twice, a directory without sets, ids that do not match, or
            a bad number; it names the file.
    """
    labels = [label for label, _ in systems]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"label {label!r} is given twice; name each system once")
    return [
        _row(label, Path(decode_dir), text.parent, Path(ref_dir))
        for label, decode_dir in systems
        for text in _texts(Path(decode_dir))
    ]


def _texts(decode_dir: Path) -> list[Path]:
    """``text`` of each set; asr.sh puts the validation set at ``org/<set>``."""
    texts = [*decode_dir.glob("*/text"), *decode_dir.glob("org/*/text")]
    if not texts:
        raise UserError(f"{decode_dir}: no <set>/text in it; name a decode directory")
    return sorted(texts)


def _row(label: str, decode_dir: Path, set_dir: Path, ref_dir: Path) -> Row:
    name = set_dir.relative_to(decode_dir).as_posix()
    paths = ref_dir / name / "text", set_dir / "text"
    refs, hyps = (read_text(path) for path in paths)
    names = str(paths[0]), str(paths[1])
    raw = score_pairs(refs, hyps, names=names)
    normalised = score_pairs(normalize_all(refs), normalize_all(hyps))
    passes = _column_sums(set_dir, "passes", refs, (int,))
    seconds = _column_sums(set_dir, "seconds", refs, (float, float))
    if seconds and not seconds[1]:
        raise UserError(f"{set_dir}: 'seconds' has no audio; decode the set again")
    return Row(
        system=label,
        set=name,
        wer=raw.wer,
        wer_normalised=normalised.wer,
        passes=passes and passes[0] / len(refs),
        rtf=seconds and seconds[0] / seconds[1],
    )


def _column_sums(
    set_dir: Path, name: str, refs: dict[str, str], kinds: tuple[Callable, ...]
) -> list[float] | None:
    """Sum each column of numbers over the utterances; None without such a file."""
    paths = [set_dir / name]
    if not paths[0].exists():
        paths = sorted(set_dir.glob(f"logdir/output.*/1best_recog/{name}"))
    if not paths:
        return None
    values: dict[str, list[float]] = {}
    for path in paths:
        for utt, line in read_text(path).items():
            if utt in values:
                raise UserError(f"{path}: utterance {utt} again; remove stale output.*")
            values[utt] = _numbers(path, utt, line.split(), kinds)
    check_ids(refs, values, (f"reference of {set_dir}", str(paths[0])))
    return [math.fsum(column) for column in zip(*values.values(), strict=True)]


def _numbers(
    path: Path, utt: str, cells: list[str], kinds: tuple[Callable, ...]
) -> list[float]:
    try:
        numbers = [kind(cell) for kind, cell in zip(kinds, cells, strict=True)]
    except ValueError:
        numbers = [math.nan]
    if not all(0 <= n < math.inf for n in numbers):
        raise UserError(
            f"{path}: utterance {utt}: expected {len(kinds)} number(s) >= 0, found "
            f"{' '.join(cells)!r}; decode the set again"
        )
    return numbers


def _write_markdown(rows: list[tuple[str, ...]], path: Path) -> None:
    if path.is_file():
        head = path.read_bytes()[: len(GENERATED)]
        if head and head != GENERATED.encode():
            raise UserError(f"{path}: not a generated file; choose another --output")
    rule = ["---" if i < _LABELS else "---:" for i in range(len(_HEADER))]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [
        "| " + " | ".join(row) + " |\n" for row in (escaped[0], rule, *escaped[1:])
    ]
    with atomic_write(path) as temporary:
        content = f"{GENERATED} espnet_llada.bin.summarize -->\n# RESULTS\n\n"
        temporary.write_text(content + "".join(lines), encoding="utf-8")
