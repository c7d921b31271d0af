"""The records as two pictures: where the time goes, and what batches bring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from espnet_llada.bench.measure import Record
from espnet_llada.bench.meter import STAGES
from espnet_llada.bench.tables import rtfx
from espnet_llada.report.sheet import INK, MARKERS, PALETTE, legend_name, sheet_of
from espnet_llada.types import atomic_write


def draw(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write ``bench_stages.png`` and ``bench_batches.png``; returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [record for record in records if not record.failed]
    if not records:
        return []
    files = []
    for name, plot in (("stages", _stages), ("batches", _batches)):
        files.append(folder / f"bench_{name}.png")
        with sheet_of(name) as sheet:
            plot(sheet, records)
            with atomic_write(files[-1]) as temporary:
                sheet.savefig(temporary, format="png", dpi=150)
    return files


def _stages(sheet, records: Sequence[Record]) -> None:
    """A bar for each system, batch 1, in one panel for each duration."""
    durations = list(dict.fromkeys(r.cell.seconds for r in records))
    panels = sheet.subplots(1, len(durations), sharey=True, squeeze=False)[0]
    colours = dict(zip(STAGES, PALETTE, strict=False)) | {"rest": "#9a9a9a"}
    for axes, seconds in zip(panels, durations, strict=True):
        chosen = [r for r in records if r.cell.seconds == seconds and r.cell.batch == 1]
        labels, left = [r.cell.row.label for r in chosen], np.zeros(len(chosen))
        total = 1e3 * np.array([np.mean(r.total) for r in chosen])
        for part, colour in colours.items():
            found = [np.mean(r.stages.get(part, [0.0])) for r in chosen]
            width = 1e3 * np.array(found) if part in STAGES else total - left
            bars = axes.barh(labels, width, 0.7, left, color=colour, label=part)
            left += width
        shown = [f" {value:.0f}" for value in total]
        axes.bar_label(bars, shown, fontsize=8, color=INK)
        axes.tick_params(axis="y", labelsize=8)
        axes.set_title(f"{seconds:g} s", fontsize=10)
        axes.set_xlabel("ms")
        axes.margins(x=0.2)
    panels[0].invert_yaxis()  # the first row on top
    look = {"ncols": len(colours), "frameon": False, "fontsize": 9}
    handles = panels[0].get_legend_handles_labels()
    sheet.legend(*handles, loc="outside upper center", **look)


def _batches(sheet, records: Sequence[Record]) -> None:
    """RTFx over the batch, a curve for each system, at the middle duration."""
    from matplotlib.ticker import StrMethodFormatter

    axes = sheet.add_subplot()
    durations = sorted({r.cell.seconds for r in records})
    seconds = durations[(len(durations) - 1) // 2]
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        if record.cell.seconds == seconds:
            points = curves.setdefault(record.cell.row.label, [])
            points.append((record.cell.batch, rtfx(record)))
    for i, (label, points) in enumerate(curves.items()):
        xs, ys = zip(*sorted(points), strict=True)
        colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
        axes.plot(xs, ys, color=colour, marker=marker, label=legend_name(label))
    batches = sorted({r.cell.batch for r in records})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(batches, [str(b) for b in batches])
    for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis(StrMethodFormatter("{x:g}"))
    axes.set_xlabel(f"utterances of {seconds:g} s decoded together")
    axes.set_ylabel("RTFx: seconds of speech a second")
    axes.grid(color=INK, alpha=0.12, linewidth=0.6, which="both")
    sheet.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
