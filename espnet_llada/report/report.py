"""Puts the page together; it loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from espnet_llada.report.assets import SCRIPT, STYLE
from espnet_llada.report.canvas import canvas
from espnet_llada.report.figures import Entry, draw, figures_of
from espnet_llada.report.words import Chosen, marked
from espnet_llada.scoring.overview import (
    by_group,
    main_cells,
    main_header,
    main_rows,
    set_cells,
)
from espnet_llada.scoring.summary import Row
from espnet_llada.scoring.table import NOTE, set_detail
from espnet_llada.types import Frame, atomic_write


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
    """What the page shows.

    Attributes:
        title, subtitle: plain text.
        rows: what ``summary_rows`` returns.
        entries: in the order of the rows.
        lines: labels drawn as lines in the figures, the baseline first.
        headline: labels of the cards on top.
        examples: utterances, pass by pass.
    """

    title: str
    subtitle: str
    rows: Sequence[Row]
    entries: Sequence[Entry]
    lines: Sequence[str]
    headline: Sequence[str]
    examples: Sequence[Example]


def write_report(report: Report, page: Path) -> None:
    """Write the page, and its figures as PNG files into ``figures/`` beside it."""
    main, sets = main_rows(report.rows)
    figures = [
        (figure.title, draw(figure, page.parent / "figures"))
        for figure in figures_of(main, report.entries, report.lines)
    ]
    sections = {
        "Curves": _figures(figures) if figures else "",
        "All rows": _tables(report, main, sets),
        "Pass by pass": _examples(report.examples, report.entries),
    }
    there = {title: html for title, html in sections.items() if html}
    links = (f'<a href="#{_anchor(title)}">{title}</a>' for title in there)
    parts = [_head(report, main, "".join(links))]
    for title, section in there.items():
        parts.append(f'<h2 id="{_anchor(title)}">{title}</h2>{section}')
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{STYLE}</style></head><body>"
        f"{''.join(parts)}<script>{SCRIPT}</script></body></html>\n"
    )
    with atomic_write(page) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _head(report: Report, main: Sequence[Row], links: str) -> str:
    by_label = {row.system: row for row in main}
    groups = {entry.label: entry.group for entry in report.entries}
    found = [(by_label[label], groups[label]) for label in report.headline]
    cards = "".join(_card(row, group) for row, group in found)
    return (
        f"<h1>{escape(report.title)}</h1><p class=quiet>{escape(report.subtitle)}</p>"
        f"<nav>{links}</nav><div class=cards>{cards}</div>"
    )


def _card(row: Row, group: str) -> str:
    rate = row.wer_normalised.rate
    lines = [f"95 % interval {rate.low:.2f} to {rate.high:.2f}"]
    if row.passes is not None:
        speed = "" if row.rtf is None else f", RTF {row.rtf:.3f}"
        lines.append(f"{row.passes:.1f} forward passes{speed}")
    change = row.change_normalised
    if change is not None and change.relative is not None:
        against = escape(row.baseline or "")
        lines.append(
            f"{change.relative.value:+.1f} % against {against}, p {change.p_text}"
        )
    details = "".join(f"<small>{line}</small>" for line in lines)
    name = f"<em>{escape(group)}</em><br>{escape(row.system)}"
    return f'<div class="card">{name}<b>{rate.value:.2f} %</b>{details}</div>'


def _figures(figures: Sequence[tuple[str, str]]) -> str:
    found = "".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"
        for title, svg in figures
    )
    return (
        "<p class=note>All sets pooled. Bands and bars are 95 % bootstrap intervals; "
        f"the dashed line is the baseline.</p><div class=figures>{found}</div>"
    )


def _tables(report: Report, main: Sequence[Row], sets: Sequence[str]) -> str:
    groups = {entry.label: entry.group for entry in report.entries}
    header = main_header(main)
    body = ""
    for group, members in by_group(main, groups):
        if group:
            name = escape(group)
            body += f"<tr class=group><th colspan={len(header)}>{name}</th></tr>"
        for row in members:
            body += _line(row, len(header) > 5, row.system in report.lines[:1])
    about = f"{set_detail(main[0])}. {NOTE} Bold: p below 0.05."
    html = f"<p class=note>{escape(about)}</p>{_table(header, body)}"
    if len(sets) > 1:
        cells = set_cells(report.rows, sets)
        lines = "".join(f"<tr>{_cells(line)}</tr>" for line in cells)
        title = "<h3>Each set: WER after the normaliser (raw), %</h3>"
        html += f"{title}{_table(('system', *sets), lines)}"
    return html


def _line(row: Row, compared: bool, base: bool) -> str:
    change, cells = row.change_normalised, main_cells(row, compared)
    sure = change is not None and change.p < 0.05
    marked_cells = _cells(cells[:-2]) + _cells(cells[-2:], "sure" if sure else "")
    shown = marked_cells if compared else _cells(cells)
    return f"<tr{' class=base' if base else ''}>{shown}</tr>"


def _cells(cells: Sequence[str], css: str = "") -> str:
    attribute = f' class="{css}"' if css else ""
    return "".join(f"<td{attribute}>{escape(cell)}</td>" for cell in cells)


def _table(header: Sequence[str], body: str) -> str:
    names = "".join(f"<th>{escape(name)}</th>" for name in header)
    return (
        f"<div class=scroll><table><thead><tr>{names}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


_KEY = """<div class=key>
<span>probability 0<span class=ramp></span>1</span>
<span><i class="cell mask" style="--w:3"></i>masked</span>
<span><i class="cell now" style="--w:4">word</i>decided by this pass</span>
<span><i class="cell given" style="--w:4">word</i>kept from the first pass</span>
<span><i class="cell end" style="--w:1">·</i>no word here</span>
<span><mark class=new>WORD</mark> changed by deliberation</span>
<span><mark class=bad>WORD</mark> wrong</span>
<span><del>WORD</del> missing</span></div>"""
_PLAYER = (
    "<div class=player><button type=button>Play</button>"
    '<input type=range min=0 value=0 aria-label="forward pass">'
    "<button type=button>One pass</button></div>"
)
_WHY = {
    "better": "deliberation made it better",
    "worse": "deliberation made it worse",
    "right": "decoded without an error",
    "wrong": "decoded with errors",
}


def _examples(examples: Sequence[Example], entries: Sequence[Entry]) -> str:
    if not examples:
        return ""
    html = (
        "<p class=note>Chosen by rule in each set: the two that deliberation improved "
        "most and the one it spoilt most; of a decoding the longest one without an "
        f"error, and the one with the highest error rate.</p>{_KEY}"
    )
    label = None
    groups = {entry.label: entry.group for entry in entries}
    for example in examples:
        if example.label != label:
            label = example.label
            title = f"{groups[label]}: {label}" if groups[label] else label
            html += f"<h3>{escape(title)}</h3>"
        html += _example(example)
    return html


def _example(example: Example) -> str:
    chosen, ref = example.chosen, example.reference
    texts: Mapping[str, str] = {"reference": escape(ref)}
    if example.first is not None:
        texts = {**texts, "first pass": marked(ref, example.first)}
    result = marked(ref, example.result, example.first)
    texts = {**texts, "deliberated" if example.first is not None else "result": result}
    listed = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in texts.items())
    count = f"{chosen.after} errors"
    if chosen.before is not None:
        count = f"{chosen.before} errors, then {chosen.after}"
    return (
        f'<div class="example"><b>{escape(example.set)}</b> {escape(chosen.utt_id)}'
        f"<span class=badge>{_WHY[chosen.why]}: {count}</span>"
        f"<dl class=texts>{listed}</dl>"
        f"{_PLAYER + canvas(example.frames) if example.frames else ''}</div>"
    )
