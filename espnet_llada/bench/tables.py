"""What the records say: means, ratios with intervals, the roofline; Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from espnet_llada.bench.measure import Record
from espnet_llada.bench.meter import STAGES
from espnet_llada.scoring.significance import Interval

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


def markdown(
    records: Sequence[Record], machine: Mapping[str, Any], baseline: str | None
) -> str:
    """All tables.

    Args:
        records: every cell, measured.
        machine: see ``meter.machine``.
        baseline: key of the system that the others are compared with.
    """
    left_out = [r for r in records if r.failed]
    records = [r for r in records if not r.failed]
    lines = [
        f"{machine['processor']}, {machine['threads']} threads; at best "
        f"{machine['gflops']:.0f} GFLOP/s in {machine['dtype']} and "
        f"{machine['gigabytes_per_second']:.0f} GB/s (measured); "
        + ", ".join(f"{name} {v}" for name, v in machine["versions"].items()),
        "",
        f"Means of {max((len(r.total) for r in records), default=0)} repetitions, each "
        "with speech of its own (noise: the same), which all systems decode in turn. "
        "RTF: time over duration, RTFx its inverse. MiB: above what was in use before.",
        "",
    ]
    for part in (
        _latency(records, baseline),
        _batches(records),
        _roofline(records, machine),
    ):
        lines += [*part, ""]
    if left_out:
        lines += ["## Left out", ""]
        lines += [f"- {record.name}: {record.failed}" for record in left_out]
        lines.append("")
    return "\n".join(lines)


def _latency(records: Sequence[Record], baseline: str | None) -> Iterator[str]:
    yield "## One utterance at a time"
    for seconds in dict.fromkeys(r.cell.seconds for r in records):
        chosen = [r for r in records if r.cell.seconds == seconds and r.cell.batch == 1]
        if not chosen:
            continue
        base = next((r for r in chosen if r.cell.row.key == baseline), None)
        yield ""
        yield f"### {seconds:g} s of speech"
        yield ""
        yield (
            f"| system | ms (quartiles) | {' | '.join(STAGES)} | rest "
            "| passes | tokens a pass | RTF | MiB | weights MiB "
            "| times faster than the baseline |"
        )
        yield "|---|---:|" + "---:|" * (len(STAGES) + 7)
        for record in chosen:
            yield _latency_line(record, base)


def _latency_line(record: Record, base: Record | None) -> str:
    total = 1e3 * np.array(record.total)
    low, high = np.percentile(total, (25, 75))
    mean, passes = float(total.mean()), float(np.mean(record.passes))
    stages = [1e3 * float(np.mean(record.stages.get(s, [0.0]))) for s in STAGES]
    shown = [f"{ms:.1f}" if record.stages else "" for ms in stages]
    rest = f"{mean - sum(stages):.1f}" if record.stages else ""
    faster = ""
    if base is not None and base is not record:
        r = ratio(base.total, record.total)
        faster = f"{r.value:.2f} [{r.low:.2f}, {r.high:.2f}]"
    cells = [
        record.cell.row.label,
        f"{mean:.1f} ({low:.1f}-{high:.1f})",
        *shown,
        rest,
        f"{passes:.1f}",
        f"{np.mean(record.tokens) / passes:.1f}" if passes else "",
        f"{mean / 1e3 / record.cell.seconds:.3f}",
        f"{record.memory:.0f}",
        f"{record.model:.0f}" if record.model else "",
        faster,
    ]
    return "| " + " | ".join(cells) + " |"


def rtfx(record: Record) -> float:
    """Seconds of speech for each second of work."""
    cell = record.cell
    return cell.batch * cell.seconds / float(np.mean(record.total))


def _batches(records: Sequence[Record]) -> Iterator[str]:
    batches = sorted({r.cell.batch for r in records})
    yield "## Throughput: RTFx by batch"
    yield ""
    heads = " | ".join(f"batch {b}" for b in batches)
    yield f"| system | seconds | {heads} | largest over smallest |"
    yield "|---|---:|" + "---:|" * (len(batches) + 1)
    table: dict[tuple[str, float], dict[int, Record]] = {}
    for record in records:
        key = record.cell.row.label, record.cell.seconds
        table.setdefault(key, {})[record.cell.batch] = record
    for (label, seconds), found in table.items():
        shown = [f"{rtfx(found[b]):.1f}" if b in found else "" for b in batches]
        gain = rtfx(found[max(found)]) / rtfx(found[min(found)])
        last = f"{gain:.2f}" if len(found) > 1 else ""
        yield f"| {label} | {seconds:g} | {' | '.join(shown)} | {last} |"


def _roofline(records: Sequence[Record], machine: Mapping[str, Any]) -> Iterator[str]:
    """How near each stage comes to what the machine can do."""
    yield "## Against the roofline"
    yield ""
    yield (
        "GFLOP: matrix products, counted by torch. MB: weights, read once a call. "
        "Bound: the larger of the two over what the machine does at best."
    )
    yield ""
    yield "| system | seconds | batch | stage | GFLOP | MB | bound ms | ms | share |"
    yield "|---|---:|---:|---|---:|---:|---:|---:|---:|"
    batches = {r.cell.batch for r in records}
    for record in records:
        cell = record.cell
        if not record.stages or cell.batch not in (min(batches), max(batches)):
            continue
        row = cell.row
        # torch counts no int8 products
        if row.decoding.quantize_asr_model or row.bench.weights:
            continue
        for stage in STAGES:
            flops, size = record.flops[stage], record.weights[stage]
            took = 1e3 * float(np.mean(record.stages[stage]))
            if not flops or not took:  # of speech so far, none may have needed the LLM
                continue
            bound = 1e3 * max(
                flops / machine["gflops"] / 1e9,
                size / machine["gigabytes_per_second"] / 1e9,
            )
            yield (
                f"| {cell.row.label} | {cell.seconds:g} | {cell.batch} | {stage} "
                f"| {flops / 1e9:.2f} | {size / 1e6:.0f} | {bound:.1f} | {took:.1f} "
                f"| {100 * bound / took:.0f} % |"
            )
