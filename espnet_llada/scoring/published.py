"""Published error rates beside our own: read from YAML, looked up, as a table.

    rows:                      # by the row of the sweep that is the same experiment
      llama:
        test_other: {wer: 5.63, sure: derived, source: "arXiv 2509.16622, abstract"}
    best_of:                   # of several rows, where no source says of which one
      best cascade:
        rows: [random_mask30, low_confidence_mask30]
        sets: {test_other: {wer: 4.94, sure: stated, source: "…"}}

``sure``: the paper says so (``stated``), it follows from what the paper says
(``derived``), or others say that the paper says so (``second_hand``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from espnet_llada.io.files import read_yaml
from espnet_llada.io.schema import checked
from espnet_llada.scoring.summary import Row
from espnet_llada.scoring.table import Cells
from espnet_llada.types import UserError, nearest

HEADER = (
    *("system", "set", "published %", "WER raw % [95% CI]", "WER norm % [95% CI]"),
    *("published in the interval", "how sure"),
)
NOTE = (
    "Published error rates are after Whisper's English normaliser; the interval is "
    "that of the normalised WER. Rows that deliberate are the paper's experiment only "
    "over the paper's first pass, Whisper-LLaMA."
)

SETS = ("test_clean", "test_other")


class Cell(Struct, frozen=True, forbid_unknown_fields=True):
    """A published word error rate, in percent."""

    wer: Annotated[float, Meta(ge=0.0, le=1000.0)]
    source: Annotated[str, Meta(min_length=1)]
    sure: Literal["stated", "derived", "second_hand"]


@dataclass(frozen=True)
class Best:
    """What is published of the best of some rows."""

    rows: tuple[str, ...]
    sets: Mapping[str, Cell]


@dataclass(frozen=True)
class Published:
    """What is published: {row: {set: cell}}, and {name: the best of some rows}."""

    rows: Mapping[str, Mapping[str, Cell]]
    best_of: Mapping[str, Best]


class _Best(Struct, forbid_unknown_fields=True):
    rows: Annotated[list[str], Meta(min_length=2)]
    sets: dict[str, Any]


class _Content(Struct, forbid_unknown_fields=True):
    """The YAML."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    best_of: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_published(path: str | Path, keys: Sequence[str]) -> Published:
    """Read and check the file.

    Args:
        path: of the YAML.
        keys: of the sweep's rows.

    Raises:
        UserError: it cannot be read or does not fit, or names a row that is not there.
    """
    content = checked(read_yaml(path), _Content, path)
    rows, best_of = {}, {}
    for key, sets in content.rows.items():
        _known(key, keys, f"{path}: rows", "the sweep has no row")
        rows[key] = _cells(sets, f"{path}: row {key}")
    for name, given in content.best_of.items():
        where = f"{path}: best_of: {name}"
        best = checked(given, _Best, where)
        for key in best.rows:
            _known(key, keys, where, "the sweep has no row")
        best_of[name] = Best(tuple(best.rows), _cells(best.sets, where))
    return Published(rows, best_of)


def _cells(sets: Mapping[str, Any], where: str) -> dict[str, Cell]:
    for name in sets:
        _known(name, SETS, where, "nothing is published of a set")
    return {
        name: checked(cell, Cell, f"{where}: {name}") for name, cell in sets.items()
    }


def _known(name: str, names: Sequence[str], where: str, what: str) -> None:
    if name not in names:
        raise UserError(f"{where}: {what} '{name}'{nearest(name, names)}")


@dataclass(frozen=True)
class Comparison:
    """A published value, and what was measured here.

    Attributes:
        label: of the row, or of what is the best of some rows.
        published: the cell.
        measured: the row on that set.
    """

    label: str
    published: Cell
    measured: Row

    @property
    def agrees(self) -> bool:
        """Whether the value lies in the interval of the normalised WER."""
        rate = self.measured.normalised.wer.rate
        low, high = round(rate.low, 2), round(rate.high, 2)  # as they are printed
        return low <= self.published.wer <= high

    @property
    def cells(self) -> Cells:
        """A line of the table."""
        raw, normalised = self.measured.raw.wer.rate, self.measured.normalised.wer.rate
        value, sure = f"{self.published.wer:.2f}", self.published.sure.replace("_", " ")
        rates = value, str(raw), str(normalised), "yes" if self.agrees else "no"
        return (
            self.label,
            self.measured.set,
            *rates,
            f"{sure}: {self.published.source}",
        )


def compare_published(
    published: Published, rows: Sequence[Row], labels: Mapping[str, str]
) -> list[Comparison]:
    """What is published of the rows and sets that were measured.

    The best of some rows is the one with the lowest normalised WER, on the sets
    together of which something is published.

    Args:
        published: see there.
        rows: what ``summary_rows`` returns.
        labels: key -> label, of the sweep's rows that were measured.
    """
    measured = {(row.system, row.set): row for row in rows}
    found = []

    def add(label: str, system: str, sets: Mapping[str, Cell]) -> None:
        for name, cell in sets.items():
            if row := measured.get((system, name)):
                found.append(Comparison(label, cell, row))

    for key, sets in published.rows.items():
        if key in labels:
            add(labels[key], labels[key], sets)
    for name, best in published.best_of.items():
        there = [labels[key] for key in best.rows if key in labels]

        def total(system: str, sets: Mapping[str, Cell] = best.sets) -> float:
            own = (measured.get((system, name)) for name in sets)
            return sum(row.normalised.wer.rate.value for row in own if row)

        if there:
            winner = min(there, key=total)
            label = f"{name}; of {len(there)} rows here: {winner}"
            add(label, winner, best.sets)
    return found
