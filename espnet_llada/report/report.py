"""One HTML file that shows a sweep; it loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_llada.io.files import write_text
from espnet_llada.report.calibration import Calibration, Confidences
from espnet_llada.report.canvas import canvas
from espnet_llada.report.canvases import Canvases, side_by_side
from espnet_llada.report.figures import Entry, curves_of
from espnet_llada.report.sheet import Picture, draw
from espnet_llada.report.tradeoffs import pareto, repaired
from espnet_llada.report.words import Chosen, marked
from espnet_llada.scoring import published
from espnet_llada.scoring.overview import (
    about,
    by_group,
    main_cells,
    main_header,
    main_rows,
    set_cells,
)
from espnet_llada.scoring.published import Comparison
from espnet_llada.scoring.summary import Row
from espnet_llada.scoring.table import NOTE
from espnet_llada.types import Frame

_WHY = {
    "better": "deliberation made it better",
    "worse": "deliberation made it worse",
    "right": "decoded without an error",
    "wrong": "decoded with errors",
}


@dataclass(frozen=True)
class Example:
    """One utterance as one row has decoded it.

    Attributes:
        label: of the row.
        set: name of the set.
        chosen: the utterance, and why it is shown.
        reference, result: texts.
        first: the first pass, where there is one.
        frames: the canvas, pass by pass.
    """

    label: str
    set: str
    chosen: Chosen
    reference: str
    result: str
    first: str | None
    frames: Sequence[Frame]


@dataclass(frozen=True)
class Report:
    """What the HTML shows.

    Attributes:
        title, subtitle: plain text.
        rows: what ``summary_rows`` returns.
        entries: in the order of the rows.
        lines: labels drawn as lines in the figures, the baseline first.
        headline: labels of the cards on top.
        examples: utterances, pass by pass.
        published: published error rates beside ours.
        confidences: of the rows that have any.
        canvases: utterances of the rows that fill several.
    """

    title: str
    subtitle: str
    rows: Sequence[Row]
    entries: Sequence[Entry]
    lines: Sequence[str]
    headline: Sequence[str]
    examples: Sequence[Example]
    published: Sequence[Comparison] = ()
    confidences: Sequence[Confidences] = ()
    canvases: Sequence[Canvases] = ()


def write_report(report: Report, path: Path) -> None:
    """Write it as HTML, and its figures as PNG files into the folder ``figures``."""
    # Here, since a sweep that fails needs none.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader(__package__),  # its folder templates/
        autoescape=True,  # labels, ids and transcripts may hold anything
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    main, sets = main_rows(report.rows)
    header = main_header(main)
    groups = {entry.label: entry.group for entry in report.entries}
    html = templates.get_template("report.html").render(
        report=report,
        groups=groups,
        by_label={row.system: row for row in main},
        figures=[
            (picture, draw(picture, path.parent / "figures"))
            for picture in pictures_of(report, main)
        ],
        about=f"{about(main)} {NOTE}",
        header=header,
        grouped=by_group(main, groups),
        cells_of=lambda row: main_cells(row, header),
        sets=sets,
        each_set=set_cells(report.rows, sets),
        published_header=published.HEADER,
        published_note=published.NOTE,
        why=_WHY,
        marked=marked,
        canvas=canvas,
        side_by_side=side_by_side,
    )
    write_text(path, html + "\n")


def pictures_of(report: Report, rows: Sequence[Row]) -> list[Picture]:
    """The pictures that a report has the numbers for.

    Args:
        report: see there.
        rows: one for each system, all on the same set.
    """
    given = rows, report.entries, report.lines
    found = [*pareto(*given), *repaired(*given[:2]), *curves_of(*given)]
    return found + [Calibration(report.confidences)] * bool(report.confidences)
