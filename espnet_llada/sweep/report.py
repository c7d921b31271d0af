"""From decoded rows to RESULTS.md, results.json and report.html."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from espnet_llada.io.kaldi.table import read_text
from espnet_llada.report.calibration import Confidences
from espnet_llada.report.figures import Entry
from espnet_llada.report.report import Example, Report, write_report
from espnet_llada.report.words import choose
from espnet_llada.scoring.overview import overview
from espnet_llada.scoring.published import (
    HEADER,
    NOTE,
    Comparison,
    compare_published,
)
from espnet_llada.scoring.summary import summary_rows
from espnet_llada.scoring.table import markdown, write_results
from espnet_llada.sweep.canvases import canvases_of
from espnet_llada.sweep.confidences import confidences_of
from espnet_llada.sweep.rows import Sweep, SweepRow
from espnet_llada.sweep.systems import Place, Systems


def write_all(sweep: Sweep, place: Place, sets: Sequence[str], subtitle: str) -> None:
    """Score every row and write everything into ``place.output``.

    Args:
        sweep: the rows, decoded.
        place: where they are.
        sets: the sets that they were decoded on.
        subtitle: how it came about.
    """
    labels = {row.key: row.label for row in sweep.rows}
    systems = [(row.label, place.output / row.key) for row in sweep.rows]
    base = sweep.baseline and labels[sweep.baseline]
    first = {row.label: labels[row.first_pass] for row in sweep.rows if row.first_pass}
    rows = summary_rows(systems, place.data, base, sets, first)
    groups = {row.label: row.group for row in sweep.rows}
    if first:
        subtitle += "; passes and RTF of deliberation come on top of its first pass's"
    found = []
    if sweep.published:
        found = compare_published(sweep.published, rows, labels)
    tables = f"\n{subtitle}\n{overview(rows, groups)}{_published(found)}"
    write_results(rows, place.output / "RESULTS.md", tables)
    lines = [labels[key] for key in (sweep.baseline, sweep.reference) if key]
    report = Report(
        title="Whisper-LLaDA: every row of the sweep",
        subtitle=subtitle,
        rows=rows,
        entries=[_entry(row) for row in sweep.rows],
        lines=lines,
        headline=[labels[key] for key in sweep.headline],
        examples=list(_examples(sweep, place, sets)),
        published=found,
        confidences=[*_confidences(sweep, place, sets)],
        canvases=[c for row in sweep.rows for c in canvases_of(row, place, sets)],
    )
    write_report(report, place.output / "report.html")


def _published(found: Sequence[Comparison]) -> str:
    """Markdown: published values beside ours."""
    if not found:
        return ""
    table = markdown([HEADER, *(one.cells for one in found)], left=2)
    return f"\n## Published and measured\n\n{NOTE}\n\n{table}"


def _entry(row: SweepRow) -> Entry:
    decodes = not row.options.deliberates
    axis = row.axis and row.axis.rpartition(".")[2]  # of an extension: its own name
    drawn = "word_times" not in row.options.extensions  # these change no transcript
    return Entry(row.key, row.label, row.group, axis, row.value, decodes, drawn)


def _confidences(
    sweep: Sweep, place: Place, sets: Sequence[str]
) -> Iterator[Confidences]:
    for row in sweep.rows:
        if "word_times" in row.options.extensions:
            found = confidences_of(row, place, sets)
            yield from [found] * (found is not None)


def _examples(sweep: Sweep, place: Place, sets: Sequence[str]) -> Iterator[Example]:
    """A few utterances of the rows that the sweep names, decoded once more."""
    from tqdm import tqdm

    systems = Systems(place)
    pairs = [(sweep.row(key), name) for key in sweep.examples for name in sets]
    for row, name in tqdm(pairs, delay=2, disable=None, leave=False, desc="examples"):
        yield from _of_set(systems, row, place, name)


def _of_set(
    systems: Systems, row: SweepRow, place: Place, name: str
) -> Iterator[Example]:
    from espnet_llada.io.audio.reading import load_audio
    from espnet_llada.sweep.trace import trace

    refs = read_text(place.data / name / "text")
    results = read_text(place.text(row.key, name))
    first = row.first_pass and read_text(place.text(row.first_pass, name))
    audio = place.recordings(name)
    for chosen in choose(refs, results, first):
        utt = chosen.utt_id
        given = first[utt] if first else None
        frames = []
        if row.system == "llada":
            recognizer = systems.recognizer(row)
            frames = trace(recognizer, load_audio(audio[utt]), utt, given)[1]
        yield Example(row.label, name, chosen, refs[utt], results[utt], given, frames)
