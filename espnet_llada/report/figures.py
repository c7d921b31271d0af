"""Error rates as curves over an option."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from espnet_llada.report.sheet import (
    draw_lines,
    finish,
    legend_name,
    look_of,
    mark_numbers,
    scale_rates,
)
from espnet_llada.scoring.significance import Interval
from espnet_llada.scoring.summary import Row


@dataclass(frozen=True)
class Entry:
    """What the report knows of a row of the sweep besides its numbers.

    Attributes:
        key: of the sweep's YAML.
        label: of the table.
        group: heading, and name of the curve.
        axis, value: the option that the rows of a curve differ in, and what it is here.
        decodes: from nothing, rather than over a first pass.
        drawn: as a point; not where its text is that of another row.
    """

    key: str
    label: str
    group: str = ""
    axis: str | None = None
    value: float | None = None
    decodes: bool = True
    drawn: bool = True


@dataclass(frozen=True)
class Curves:
    """A picture: curves over one x axis, and rows that are a line at one height.

    Attributes:
        name: of the file.
        curves: name -> points (x, error rate), ascending.
        lines: name -> error rate; the first one has a band.
        doubling: a step to the right is a factor of two.
    """

    name: str
    title: str
    x_label: str
    curves: dict[str, list[tuple[float, Interval]]]
    lines: dict[str, Interval]
    doubling: bool = True
    note: str = ""

    def plot(self, sheet: Any) -> None:
        """See ``Picture``."""
        axes = sheet.add_subplot()
        draw_lines(axes, self.lines)
        for i, (name, points) in enumerate(self.curves.items()):
            look, xs = look_of(i), [x for x, _ in points]
            ends = ([getattr(r, end) for _, r in points] for end in ("low", "high"))
            axes.fill_between(xs, *ends, color=look["color"], alpha=0.15, linewidth=0)
            values = [r.value for _, r in points]
            axes.plot(xs, values, label=legend_name(name), markersize=5, **look)
        if self.doubling:
            _doubling(axes, {x for points in self.curves.values() for x, _ in points})
        rates = [r for points in self.curves.values() for _, r in points]
        scale_rates(axes, [*rates, *self.lines.values()])
        finish(sheet, axes, self.x_label, "WER (raw), %")


_AXES = (
    ("mask_ratio", "wer_mask_ratio", "WER against mask ratio", "masked, %"),
    ("steps", "wer_steps", "WER against steps", "steps (budget of forward passes)"),
    ("num_blocks", "wer_sub_blocks", "WER against sub-blocks", "sub-blocks"),
)


def curves_of(
    rows: Sequence[Row], entries: Sequence[Entry], lines: Sequence[str]
) -> list[Curves]:
    """The pictures that the rows allow.

    Args:
        rows: one for each system, all on the same set.
        entries: in the order of the table.
        lines: labels of the rows to be drawn as lines, the baseline first.
    """
    rates = {row.system: row.raw.wer.rate for row in rows}
    flat = {label: rates[label] for label in lines}
    found = []
    for axis, name, title, x_label in _AXES:
        is_share = axis == "mask_ratio"
        of_axis = [e for e in entries if e.axis == axis]
        curves = _curves(
            (e, 100.0 * e.value if is_share else e.value, rates[e.label])
            for e in of_axis
        )
        if curves:
            found.append(Curves(name, title, x_label, curves, flat, not is_share))
    return found


def _curves(
    points: Iterable[tuple[Entry, float, Interval]],
) -> dict[str, list[tuple[float, Interval]]]:
    curves: dict[str, list[tuple[float, Interval]]] = {}
    for entry, x, rate in points:
        curves.setdefault(entry.group or entry.label, []).append((x, rate))
    by_x = operator.itemgetter(0)
    return {n: sorted(found, key=by_x) for n, found in curves.items() if len(found) > 1}


def _doubling(axes: Any, xs: set[float]) -> None:
    axes.set_xscale("log", base=2)
    marks = [2**n for n in range(12) if min(xs) <= 2**n <= max(*xs, 32)]
    mark_numbers(axes.xaxis, marks)
