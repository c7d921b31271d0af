"""Many rows on a few sets, in two tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from espnet_llada.scoring.summary import POOLED, Row
from espnet_llada.scoring.table import (
    CHANGES,
    RATES,
    REPAIRS,
    REPAIRS_NOTE,
    Cells,
    change_cells,
    markdown,
    rate_cells,
    repair_cells,
    set_detail,
)


def overview(rows: Sequence[Row], groups: Mapping[str, str]) -> str:
    """Markdown: all sets pooled, in full; then the rates of each set side by side.

    Args:
        rows: what ``summary_rows`` returns.
        groups: label -> heading that it stands under; "" for none.
    """
    main, sets = main_rows(rows)
    title = "All sets pooled" if len(sets) > 1 else sets[0]
    content = f"\n## {title}\n\n{about(main)}\n\n"
    header = main_header(main)
    table = [header]
    for group, members in by_group(main, groups):
        if group:
            table.append((f"**{group}**", *[""] * (len(header) - 1)))
        table += [main_cells(row, header) for row in members]
    content += markdown(table)
    if len(sets) > 1:
        content += "\n## Each set\n\nWER raw (after the normaliser), %\n\n"
        content += markdown([("system", *sets), *set_cells(rows, sets)])
    return content


def main_rows(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """The pooled rows (those of the only set, if there is one), and the sets."""
    sets = list(dict.fromkeys(row.set for row in rows if row.set != POOLED))
    shown = POOLED if len(sets) > 1 else sets[0]
    return [row for row in rows if row.set == shown], sets


def by_group(
    rows: Sequence[Row], groups: Mapping[str, str]
) -> Iterator[tuple[str, list[Row]]]:
    """Runs of rows with the same heading."""
    for group, members in itertools.groupby(rows, lambda r: groups.get(r.system, "")):
        yield group, list(members)


def about(rows: Sequence[Row]) -> str:
    """What the first table is of, and what it says of deliberation."""
    detail = f"{set_detail(rows[0])}."
    return f"{detail} {REPAIRS_NOTE}" if _repaired(rows) else detail


def main_header(rows: Sequence[Row]) -> Cells:
    """Columns of the first table, those that some row has a number for."""
    header = (*RATES, *REPAIRS) if _repaired(rows) else RATES
    against = next((row.baseline for row in rows if row.baseline), None)
    if against is None:
        return header
    return (*header, f"against {against}, {CHANGES[0]}", *CHANGES[1:])


def main_cells(row: Row, header: Cells) -> Cells:
    """A line of the first table."""
    cells = rate_cells(row)
    if REPAIRS[0] in header:
        cells += repair_cells(row)
    if CHANGES[-2] in header:
        cells += change_cells(row) if row.baseline else ("",) * len(CHANGES)
    return cells


def _repaired(rows: Sequence[Row]) -> bool:
    return any(row.repairs for row in rows)


def set_cells(rows: Sequence[Row], sets: Sequence[str]) -> list[Cells]:
    """Lines of the second table: ``raw (normalised)`` for each set."""
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        values = row.raw.wer.rate.value, row.normalised.wer.rate.value
        table.setdefault(row.system, {})[row.set] = "{:.2f} ({:.2f})".format(*values)
    return [
        (label, *(cells.get(name, "-") for name in sets))
        for label, cells in table.items()
    ]
