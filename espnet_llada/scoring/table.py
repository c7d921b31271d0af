"""Shows a summary: on a terminal, as RESULTS.md, as results.json."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

from espnet_llada.io.files import write_json, write_text
from espnet_llada.scoring.report import GENERATED, check_generated
from espnet_llada.scoring.significance import REPLICATES, Change
from espnet_llada.scoring.summary import Row
from espnet_llada.types import UserError

RATES = ("system", "WER raw % [95% CI]", "WER norm % [95% CI]", "passes", "RTF")
CHANGES = ("raw: change %", "p", "norm: change %", "p")
REPAIRS = ("mended", "broken")
_CHANGED = ("system", "against", *CHANGES)
NOTE = (
    "raw: the text as it is; norm: both sides after Whisper's English normaliser. "
    "passes: LLM forward passes per utterance. change: of the WER, relative, with its "
    "95% interval and a two-sided p by paired bootstrap."
)
REPAIRS_NOTE = (
    "mended, broken: errors of the first pass that are gone, and errors that it did "
    "not have, in words, after the normaliser."
)

_NUMBERS = '[\n {\n  "system": '
"""How the JSON file begins."""

Cells = tuple[str, ...]


def terminal_table(rows: Sequence[Row]) -> str:
    """The tables of each set, in columns."""
    blocks = []
    for title, detail, tables in _sets(rows):
        blocks.append(f"{title}: {detail}\n" + "\n".join(map(_aligned, tables)))
    return "\n".join(blocks)


def write_results(
    rows: Sequence[Row], results_md: str | Path, tables: str | None = None
) -> None:
    """Write the tables to ``RESULTS.md``, all numbers to ``results.json``.

    Args:
        rows: all of them.
        results_md: the Markdown file; the JSON file is named after it.
        tables: Markdown to be shown instead of every number of each set.

    Raises:
        UserError: ``results_md`` holds hand-written text, or cannot be written.
    """
    path = check_results(results_md)
    content = f"{GENERATED} espnet_llada.bin.summarize -->\n# RESULTS\n\n{NOTE}\n"
    content += _all_sets(rows) if tables is None else tables
    write_json(_numbers_of(path), [row.as_dict() for row in rows])
    write_text(path, content)


def check_results(results_md: str | Path) -> Path:
    """Refuse before the work what ``write_results`` would refuse after it.

    Raises:
        UserError: as there.
    """
    path = Path(results_md)
    check_generated(path)
    if path == _numbers_of(path):
        raise UserError(f"{path}: takes the numbers; name a Markdown file")
    check_generated(_numbers_of(path), _NUMBERS)
    return path


def _numbers_of(path: Path) -> Path:
    return path.with_name(f"{path.stem.lower()}.json")


def _all_sets(rows: Sequence[Row]) -> str:
    content = ""
    for title, detail, tables in _sets(rows):
        content += f"\n## {title}\n\n{detail}\n"
        content += "".join(f"\n{markdown(table, _labels(table))}" for table in tables)
    return content


def _sets(rows: Sequence[Row]) -> Iterator[tuple[str, str, list[list[Cells]]]]:
    """Each set's name, what it is made of, and one or two tables."""
    for name, group in itertools.groupby(rows, key=lambda row: row.set):
        of_set = list(group)
        tables = [[RATES, *map(rate_cells, of_set)]]
        if changed := [row for row in of_set if row.baseline]:
            lines = [(row.system, row.baseline, *change_cells(row)) for row in changed]
            tables.append([_CHANGED, *lines])
        yield name, set_detail(of_set[0]), tables


def set_detail(row: Row) -> str:
    """What the set of a row is made of."""
    return (
        f"{row.utterances} utterances, {row.raw.counts.words} words; intervals: "
        f"{REPLICATES:,} resamplings of {row.raw.wer.units} {row.raw.wer.unit}"
    )


def rate_cells(row: Row) -> Cells:
    """Of ``RATES``."""
    passes = "-" if row.passes is None else f"{row.passes:.1f}"
    rtf = "-" if row.rtf is None else f"{row.rtf:.3f}"
    return (
        row.system,
        *(str(rates.wer.rate) for rates in (row.raw, row.normalised)),
        *(passes, rtf),
    )


def change_cells(row: Row) -> Cells:
    """Of ``CHANGES``, for a row that has a baseline."""
    changes = (row.raw.change, row.normalised.change)
    return tuple(cell for c in changes for cell in (relative(c), c.p_text))


def repair_cells(row: Row) -> Cells:
    """Of ``REPAIRS``; empty for what has no first pass."""
    return ("", "") if row.repairs is None else tuple(map(str, astuple(row.repairs)))


def relative(change: Change) -> str:
    """``-12.3 [-20.1, -4.2]``."""
    r = change.relative
    return "-" if r is None else f"{r.value:+.1f} [{r.low:+.1f}, {r.high:+.1f}]"


def _labels(table: list[Cells]) -> int:
    """How many of the first columns are text; the others are numbers."""
    return 2 if table[0] is _CHANGED else 1


def _aligned(table: list[Cells]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        pairs = enumerate(zip(row, widths, strict=True))
        left = _labels(table)
        cells = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in pairs]
        lines.append("  ".join(cells) + "\n")
    return "".join(lines)


def markdown(table: Sequence[Cells], left: int = 1) -> str:
    """A table whose first ``left`` columns are text, the others numbers."""
    rule = ["---" if i < left else "---:" for i in range(len(table[0]))]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in table]
    rows = (escaped[0], rule, *escaped[1:])
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)
