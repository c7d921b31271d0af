"""What the records say: means, ratios with intervals, the roofline; Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from espnet_llada.bench.meter import STAGES
from espnet_llada.scoring.normalize import normalize_all
from espnet_llada.scoring.significance import Interval, estimate
from espnet_llada.scoring.wer import Score, score_pairs
from espnet_llada.types import UserError

if TYPE_CHECKING:
    from espnet_llada.bench.measure import Record
    from espnet_llada.sweep.rows import SweepRow

REPLICATES = 10_000


def ratio(slower: Sequence[float], faster: Sequence[float]) -> Interval:
    """How many times faster over all, with a 95 % interval over the repetitions.

    Args:
        slower: seconds of each repetition.
        faster: of the other system in the same repetitions.
    """
    count = min(len(slower), len(faster))  # in the middle of a repetition
    pairs = np.array([slower[:count], faster[:count]])
    draws = np.random.default_rng(0).integers(0, count, (REPLICATES, count))
    sums = pairs[:, draws].sum(axis=2)
    low, high = np.percentile(sums[0] / sums[1], (2.5, 97.5))
    value, other = pairs.sum(axis=1)
    return Interval(float(value / other), float(low), float(high))


def table(
    names: str, rows: Iterable[Sequence[Any]], left: Sequence[int] = (0,)
) -> Iterator[str]:
    """The lines of a Markdown table; columns are numbers, but for ``left``."""
    heads = names.split("|")
    kinds = ["---" if n in left else "---:" for n in range(len(heads))]
    for row in (heads, kinds, *rows):
        yield f"| {' | '.join(map(str, row))} |"


def heading(machine: Mapping[str, Any]) -> str:
    """What measured, see ``meter.machine``."""
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['threads']} threads; at best "
        f"{machine['gflops']:.0f} GFLOP/s in {machine['dtype']} and "
        f"{machine['gigabytes_per_second']:.0f} GB/s (measured); {versions}"
    )


def markdown(
    records: Sequence[Record], machine: Mapping[str, Any], baseline: str | None
) -> str:
    """All tables.

    Args:
        records: every cell, measured.
        machine: see ``meter.machine``.
        baseline: key of the system that the others are compared with.
    """
    score = _scores(records)
    left_out = [f"- {r.name}: {r.failed}" for r in records if r.failed]
    records = [r for r in records if not r.failed]
    lines = [
        heading(machine),
        "",
        f"Means of {max((len(r.total) for r in records), default=0)} repetitions, each "
        "with speech of its own (noise: the same), which all systems decode in turn: "
        "whole recordings, joined, and silence up to the duration. "
        "RTF: time over duration, RTFx its inverse. MiB: above what was in use before.",
        "",
        *_peers(records, baseline, score),
        *_accuracy(records, score),
        "## One utterance at a time",
        *_latency(records, baseline),
        "",
        *_batches(records),
        "",
        "## Against the roofline",
        "",
        "GFLOP: matrix products, counted by torch. MB: weights, read once a call. "
        "Bound: the larger of the two over what the machine does at best.",
        "",
        *table(
            "system|seconds|batch|stage|GFLOP|MB|bound ms|ms|share",
            _roofline(records, machine),
            left=(0, 3),
        ),
        "",
    ]
    if left_out:
        lines += ["## Left out", "", *left_out, ""]
    return "\n".join(lines)


def _peers(
    records: Sequence[Record], baseline: str | None, score: Scoring
) -> Iterator[str]:
    """Each system beside the baseline and those that are not ours, by duration."""
    rows = {r.cell.row.key: r.cell.row for r in records}
    if not any(map(is_peer, rows.values())):
        return
    cells: dict[tuple[str, int], dict[float, Record]] = {}
    for r in records:
        cells.setdefault((r.cell.row.key, r.cell.batch), {})[r.cell.seconds] = r
    durations = list(dict.fromkeys(r.cell.seconds for r in records))
    names = "|".join(f"{seconds:g} s" for seconds in durations)
    yield from ("## Side by side", "")
    yield "Of each utterance: ms (ms of CPU, all threads), WER in %."
    yield ""
    yield from table(
        f"system|batch|{names}",
        (
            [rows[key].label, batch, *(_side(own.get(s), score) for s in durations)]
            for (key, batch), own in cells.items()
        ),
    )
    yield from ("", "Times faster, with 95 % intervals; **in bold: slower**.", "")
    others = [key for key, row in rows.items() if key == baseline or is_peer(row)]
    yield from table(
        f"system|batch|than|{names}",
        (
            [rows[key].label, batch, rows[other].label]
            + [_faster(own.get(s), cells[other, batch].get(s)) for s in durations]
            for (key, batch), own in cells.items()
            for other in others
            if other != key and (other, batch) in cells and not is_peer(rows[key])
        ),
        left=(0, 2),
    )
    yield ""


def _side(record: Record | None, score: Scoring) -> str:
    if record is None:
        return ""
    ms, cpu = (
        1e3 * np.mean(times) / record.cell.batch for times in (record.total, record.cpu)
    )
    found = score(record)
    return f"{ms:.0f} ({cpu:.0f})" + (f", {found.wer:.2f}" if found else "")


def _faster(record: Record | None, other: Record | None) -> str:
    if record is None or other is None:
        return ""
    r = ratio(other.total, record.total)
    mark = "**" if r.value < 1 else ""
    return f"{mark}{r.value:.2f}{mark} [{r.low:.2f}, {r.high:.2f}]"


def _accuracy(records: Sequence[Record], score: Scoring) -> Iterator[str]:
    """Error rates over all durations, of the smallest batch."""
    smallest = min((r.cell.batch for r in records), default=1)
    pooled: dict[str, dict] = {}
    for record in records:
        if record.cell.batch == smallest and (found := score(record)):
            own = pooled.setdefault(record.cell.row.label, {})
            for name, counts in found.utterances.items():
                own[f"{record.cell.seconds:g} {name}"] = counts
    rows = []
    for label, utterances in pooled.items():
        found = Score(utterances)
        rate = estimate(found).rate
        rows.append([label, len(utterances), found.total.words, rate])
    if rows:
        yield f"## Word error rate over all durations, batch {smallest}"
        yield from ("", "After Whisper's English normaliser, 95 % by bootstrap.", "")
        yield from table("system|utterances|words|WER %", rows)
        yield ""


Scoring = Callable[["Record"], "Score | None"]
"""The errors of a record, normalised; None where nobody knows what was said."""


def _scores(records: Sequence[Record]) -> Scoring:
    found: dict[int, Score | None] = {}
    for record in records:
        texts = record.texts
        said, written = ({n: t[i] for n, t in texts.items()} for i in (0, 1))
        with suppress(UserError):  # no normaliser here
            if texts:
                found[id(record)] = score_pairs(*map(normalize_all, (said, written)))
    return lambda record: found.get(id(record))


def is_peer(row: SweepRow) -> bool:
    """Whether it is none of ours: Whisper's own decoder, in two implementations."""
    return row.system in ("whisper", "faster_whisper")


def _latency(records: Sequence[Record], baseline: str | None) -> Iterator[str]:
    for seconds in dict.fromkeys(r.cell.seconds for r in records):
        chosen = [r for r in records if r.cell.seconds == seconds and r.cell.batch == 1]
        base = next((r for r in chosen if r.cell.row.key == baseline), None)
        if chosen:
            yield from ("", f"### {seconds:g} s of speech", "")
            yield from table(
                f"system|ms (quartiles)|{'|'.join(STAGES)}|rest|passes|tokens a pass"
                "|RTF|MiB|weights MiB|times faster than the baseline",
                (_latency_line(record, base) for record in chosen),
            )


def _latency_line(record: Record, base: Record | None) -> list[str]:
    total = 1e3 * np.array(record.total)
    low, high = np.percentile(total, (25, 75))
    mean, passes = float(total.mean()), float(np.mean(record.passes))
    stages = [1e3 * float(np.mean(record.stages.get(s, [0.0]))) for s in STAGES]
    shown = [f"{ms:.1f}" for ms in (*stages, mean - sum(stages))]
    faster = ""
    if base is not None and base is not record:
        r = ratio(base.total, record.total)
        faster = f"{r.value:.2f} [{r.low:.2f}, {r.high:.2f}]"
    return [
        record.cell.row.label,
        f"{mean:.1f} ({low:.1f}-{high:.1f})",
        *(shown if record.stages else [""] * len(shown)),
        f"{passes:.1f}",
        f"{np.mean(record.tokens) / passes:.1f}" if passes else "",
        f"{mean / 1e3 / record.cell.seconds:.3f}",
        f"{record.memory:.0f}",
        f"{record.model:.0f}" if record.model else "",
        faster,
    ]


def rtfx(record: Record) -> float:
    """Seconds of speech for each second of work."""
    cell = record.cell
    return cell.batch * cell.seconds / float(np.mean(record.total))


def _batches(records: Sequence[Record]) -> Iterator[str]:
    batches = sorted({r.cell.batch for r in records})
    cells: dict[tuple[str, float], dict[int, float]] = {}
    for record in records:
        key = record.cell.row.label, record.cell.seconds
        cells.setdefault(key, {})[record.cell.batch] = rtfx(record)
    rows = []
    for (label, seconds), found in cells.items():
        shown = [f"{found[b]:.1f}" if b in found else "" for b in batches]
        gain = f"{found[max(found)] / found[min(found)]:.2f}"
        rows.append([label, f"{seconds:g}", *shown, gain if len(found) > 1 else ""])
    yield from ("## Throughput: RTFx by batch", "")
    names = "|".join(f"batch {b}" for b in batches)
    yield from table(f"system|seconds|{names}|largest over smallest", rows)


def _roofline(
    records: Sequence[Record], machine: Mapping[str, Any]
) -> Iterator[list[str]]:
    """How near each stage comes to what the machine can do."""
    batches = {r.cell.batch for r in records}
    for record in records:
        cell, row = record.cell, record.cell.row
        # torch counts no int8 products
        if row.decoding.quantize_asr_model or row.bench.weights or not record.stages:
            continue
        if cell.batch not in (min(batches), max(batches)):
            continue
        for stage in STAGES:
            flops, size = (
                float(np.mean(of[stage])) for of in (record.flops, record.weights)
            )
            counted = record.stages[stage][: len(record.flops[stage])]
            took = 1e3 * float(np.mean(counted))
            if not flops or not took:  # of speech so far, none may have needed the LLM
                continue
            rate = machine["gigabytes_per_second"]
            bound = 1e-6 * max(flops / machine["gflops"], size / rate)
            yield [
                *(row.label, f"{cell.seconds:g}", f"{cell.batch}", stage),
                *(f"{flops / 1e9:.2f}", f"{size / 1e6:.0f}", f"{bound:.1f}"),
                *(f"{took:.1f}", f"{100 * bound / took:.0f} %"),
            ]
