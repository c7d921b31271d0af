"""What is bought with what: error rate with passes, words mended with words broken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from espnet_llada.report.figures import Entry
from espnet_llada.report.sheet import (
    INK,
    draw_lines,
    finish,
    legend_name,
    look_of,
    mark_numbers,
    scale_rates,
)
from espnet_llada.scoring.significance import Interval
from espnet_llada.scoring.summary import Row

_PASSES = ("steps", "threshold", "mask_threshold")
"""What decides the number of passes; other options vary at a fixed number of them."""

_FAR = 2
"""Rows that break more often than so many times the most words mended are off the
picture: they would press all others into a corner."""


class Point(NamedTuple):
    """A row of the sweep: where it is, and its value on the axis of its curve."""

    label: str
    x: float
    y: float
    value: float | None = None


Groups = dict[str, list[Point]]
"""Points that share colour and marker; those with a value are joined in its order."""


@dataclass(frozen=True)
class Pareto:
    """A picture: error rate against passes, of every row that decodes from nothing.

    Attributes:
        groups: passes and raw WER (%).
        rates: label -> raw WER with its interval.
        lines: labels of rows that are a line as well, the baseline first.
    """

    groups: Groups
    rates: dict[str, Interval]
    lines: Sequence[str]
    name: str = "wer_passes"
    title: str = "WER against forward passes"
    note: str = (
        "Each point is a way to decode. The numbered ones are the Pareto front: no "
        "other has fewer errors in as few passes. Drafts by CTC and the scorer's own "
        "runs are no passes of the LLM; of Whisper they are those of its decoder."
    )

    @property
    def front(self) -> list[Point]:
        """The points that no other beats in both, by passes."""
        return _front(self.groups)

    def plot(self, sheet: Any) -> None:
        """See ``Picture``."""
        axes = sheet.add_subplot()
        draw_lines(axes, {label: self.rates[label] for label in self.lines})
        _scatter(axes, self.groups)
        _number(axes, self.front)
        marks = [0, *(2.0**n for n in range(-1, 12))]
        axes.set_xscale("symlog", base=2, linthresh=0.5, linscale=0.4)
        axes.set_xlim(left=0)
        mark_numbers(axes.xaxis, marks)
        points = [p for own in self.groups.values() for p in own]
        scale_rates(axes, [self.rates[p.label] for p in points])
        names = [
            f"{p.label} ({self.rates[p.label]} % in {p.x:.1f} passes)"
            for p in self.front
        ]
        finish(sheet, axes, "forward passes per utterance", "WER (raw), %", names)


@dataclass(frozen=True)
class Repaired:
    """A picture: words mended against words broken, of rows with a first pass.

    Attributes:
        groups: words broken and words mended.
    """

    groups: Groups
    name: str = "mended_broken"
    title: str = "Words mended against words broken"
    note: str = (
        "Errors of the first pass that are gone, against errors that it did not have; "
        "both texts aligned with the reference, normalised. Above the dashed diagonal "
        "deliberation helps. Of the numbered ones no other mends as many and breaks "
        "as few. A worse first pass has more to mend."
    )

    @property
    def near(self) -> Groups:
        """The groups that are drawn."""
        points = [p for own in self.groups.values() for p in own]
        limit = max(_FAR * max(p.y for p in points), _least_broken(points))
        return {n: own for n, own in self.groups.items() if _least_broken(own) <= limit}

    @property
    def front(self) -> list[Point]:
        """The points that no other beats in both, by words broken."""
        return _front(self.near, -1)

    def plot(self, sheet: Any) -> None:
        """See ``Picture``."""
        axes = sheet.add_subplot()
        _scatter(axes, self.near)
        _number(axes, self.front, -1)
        high = max(max(p.x, p.y) for own in self.near.values() for p in own)
        look = {"color": INK, "linewidth": 1, "linestyle": "--", "zorder": 1}
        axes.plot([0, high], [0, high], **look)
        names = [f"{p.label} ({p.y:g} mended, {p.x:g} broken)" for p in self.front]
        far = {n: own for n, own in self.groups.items() if n not in self.near}
        away = [
            f"off the picture: {name} ({_least_broken(own):g} broken and more)"
            for name, own in far.items()
        ]
        finish(sheet, axes, "words broken", "words mended", names, away)


def pareto(
    rows: Sequence[Row], entries: Sequence[Entry], lines: Sequence[str]
) -> Iterator[Pareto]:
    """The picture, if rows that decode have counted their passes.

    Args: as ``figures.curves_of``.
    """
    found = {row.system: row for row in rows}
    groups: Groups = {}
    for entry in entries:
        row = found[entry.label]
        if entry.drawn and entry.decodes and row.passes is not None:
            value = entry.value if entry.axis in _PASSES else None
            point = Point(entry.label, row.passes, row.raw.wer.rate.value, value)
            groups.setdefault(entry.group or entry.label, []).append(point)
    if sum(map(len, groups.values())) > 1:
        rates = {row.system: row.raw.wer.rate for row in rows}
        yield Pareto(groups, rates, lines)


def repaired(rows: Sequence[Row], entries: Sequence[Entry]) -> Iterator[Repaired]:
    """The picture, if there are rows with a first pass.

    Args: as ``figures.curves_of``.
    """
    found = {row.system: row.repairs for row in rows}
    groups: Groups = {}
    for entry in entries:
        if entry.drawn and (own := found[entry.label]):
            point = Point(entry.label, own.broken, own.mended, entry.value)
            groups.setdefault(entry.group or entry.label, []).append(point)
    if groups:
        yield Repaired(groups)


def pareto_front(points: Iterable[Point], sign: int = 1) -> list[Point]:
    """The points with a lower y than every other one of the same x or less, by x.

    ``sign`` -1: with a higher y.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, sign * p.y)):
        if not front or sign * point.y < sign * front[-1].y:
            front.append(point)
    return front


def _front(groups: Groups, sign: int = 1) -> list[Point]:
    return pareto_front((p for own in groups.values() for p in own), sign)


def _least_broken(points: Sequence[Point]) -> float:
    return min(p.x for p in points)


def _scatter(axes: Any, groups: Groups) -> None:
    for i, (name, points) in enumerate(groups.items()):
        look = {"markersize": 5, "zorder": 3, **look_of(i)}
        xs, ys = [p.x for p in points], [p.y for p in points]
        axes.plot(xs, ys, linestyle="none", label=legend_name(name), **look)
        curve = [p for p in points if p.value is not None]
        curve.sort(key=lambda p: p.value)
        xs, ys = [p.x for p in curve], [p.y for p in curve]
        axes.plot(xs, ys, color=look["color"], linewidth=1, alpha=0.6)


def _number(axes: Any, front: Sequence[Point], sign: int = 1) -> None:
    """Rings with numbers from 1 on, on the side of a front where no point is."""
    ring = {"marker": "o", "markersize": 11, "fillstyle": "none", "color": INK}
    xs, ys = [p.x for p in front], [p.y for p in front]
    axes.plot(xs, ys, linestyle="none", **ring)
    place = {"xytext": (-6, -5 * sign), "textcoords": "offset points"}
    look = {"ha": "right", "va": "top" if sign > 0 else "bottom", "weight": "bold"}
    for number, point in enumerate(front, 1):
        axes.annotate(f"{number}", (point.x, point.y), **place, **look)
    axes.margins(0.08)  # there is room for the numbers
