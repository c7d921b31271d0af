"""Error rates as curves: PNG files, and SVG that follows the report's colours."""

from __future__ import annotations

import io
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_llada.scoring.significance import Interval
from espnet_llada.scoring.summary import Row
from espnet_llada.types import atomic_write

# Okabe and Ito's palette, told apart by colour-blind readers too; markers differ as
# well. In the SVG each is a CSS variable, so that dark mode may have lighter ones.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8860b", "#56b4e9")
MARKERS = "osD^vP"
INK = "#1b1f24"


@dataclass(frozen=True)
class Entry:
    """What the report knows of a row of the sweep besides its numbers.

    Attributes:
        key: of the sweep's YAML.
        label: of the table.
        group: heading, and name of the curve.
        axis, value: the option that the rows of a curve differ in, and what it is here.
        decodes: from nothing, rather than over a first pass.
    """

    key: str
    label: str
    group: str = ""
    axis: str | None = None
    value: float | None = None
    decodes: bool = True


@dataclass(frozen=True)
class Figure:
    """Curves over one x axis, and rows that are a line at one height.

    Attributes:
        name: of the file.
        curves: name -> points (x, error rate), ascending.
        lines: name -> error rate; the first one has a band.
        points: name -> (x, error rate), single ones.
        doubling: a step to the right is a factor of two.
    """

    name: str
    title: str
    x_label: str
    curves: dict[str, list[tuple[float, Interval]]]
    lines: dict[str, Interval]
    points: dict[str, tuple[float, Interval]]
    doubling: bool = True


_TWO_COLUMNS = 50
"""Characters of a name in a legend; longer ones leave the sheet in two columns."""

_AXES = (
    ("mask_ratio", "wer_mask_ratio", "WER against mask ratio", "masked, %"),
    ("steps", "wer_steps", "WER against steps", "steps (budget of forward passes)"),
    ("num_blocks", "wer_sub_blocks", "WER against sub-blocks", "sub-blocks"),
)

_PASSES = ("steps", "threshold", "mask_threshold")
"""What decides the number of passes."""


def figures_of(
    rows: Sequence[Row], entries: Sequence[Entry], lines: Sequence[str]
) -> list[Figure]:
    """The figures that the rows allow.

    Args:
        rows: one for each system, all on the same set.
        entries: in the order of the table.
        lines: labels of the rows to be drawn as lines, the baseline first.
    """
    rates = {row.system: row.raw.wer.rate for row in rows}
    passes = {row.system: row.passes for row in rows}
    flat = {label: rates[label] for label in lines}
    figures = []
    for axis, name, title, x_label in _AXES:
        is_share = axis == "mask_ratio"
        of_axis = [e for e in entries if e.axis == axis]
        curves = _curves(
            (e, 100.0 * e.value if is_share else e.value, rates[e.label])
            for e in of_axis
        )
        if curves:
            figures.append(Figure(name, title, x_label, curves, flat, {}, not is_share))
    counted = [e for e in entries if e.decodes and passes[e.label]]
    # Other options vary at a fixed number of passes: no curve over these.
    curves = _curves(
        (e, passes[e.label], rates[e.label]) for e in counted if e.axis in _PASSES
    )
    points = {e.label: (passes[e.label], rates[e.label]) for e in counted if not e.axis}
    if curves:
        title, x_label = "WER against forward passes", "forward passes per utterance"
        figures.append(Figure("wer_passes", title, x_label, curves, flat, points))
    return figures


def _curves(
    points: Iterable[tuple[Entry, float, Interval]],
) -> dict[str, list[tuple[float, Interval]]]:
    curves: dict[str, list[tuple[float, Interval]]] = {}
    for entry, x, rate in points:
        curves.setdefault(entry.group or entry.label, []).append((x, rate))
    by_x = operator.itemgetter(0)
    return {n: sorted(found, key=by_x) for n, found in curves.items() if len(found) > 1}


def draw(figure: Figure, folder: Path) -> str:
    """Write ``<name>.png`` into the folder; returns the same as SVG."""
    with sheet_of(figure.name) as sheet:
        _plot(sheet.add_subplot(), figure)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / f"{figure.name}.png") as temporary:
            sheet.savefig(temporary, format="png", dpi=150, metadata={"Software": ""})
        svg = io.StringIO()
        metadata = {"Date": None, "Creator": None}
        sheet.savefig(svg, format="svg", transparent=True, metadata=metadata)
    return _inline(svg.getvalue())


@contextmanager
def sheet_of(name: str) -> Iterator[Any]:
    """An empty matplotlib figure in the style of all pictures, to draw on within.

    Args:
        name: of the picture; ids inside an SVG differ by it, not by run.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.size": 10,
        "text.parse_math": False,  # names of rows and sets may have dollar signs
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    inked = "text.color axes.labelcolor axes.edgecolor xtick.color ytick.color"
    style |= dict.fromkeys(inked.split(), INK)
    with mpl.rc_context(style):
        sheet = Sheet(figsize=(7.2, 4.4), layout="constrained")
        FigureCanvasAgg(sheet)
        yield sheet


def legend_name(name: str) -> str:
    """The same for a legend, which leaves out names that begin with ``_``."""
    return f" {name}" if name.startswith("_") else name


def _plot(axes, figure: Figure) -> None:
    for i, (name, rate) in enumerate(figure.lines.items()):
        style = "--" if i == 0 else ":"
        look = {"color": INK, "linestyle": style, "linewidth": 1.2}
        axes.axhline(rate.value, label=legend_name(name), **look)
        if i == 0:
            axes.axhspan(rate.low, rate.high, color=INK, alpha=0.08, linewidth=0)
    for i, (name, points) in enumerate(figure.curves.items()):
        colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
        xs = [x for x, _ in points]
        low, high = ([getattr(r, end) for _, r in points] for end in ("low", "high"))
        axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
        values = [r.value for _, r in points]
        look = {"color": colour, "marker": marker, "markersize": 5}
        axes.plot(xs, values, label=legend_name(name), **look)
    for i, (name, (x, rate)) in enumerate(figure.points.items()):
        error = [[rate.value - rate.low], [rate.high - rate.value]]
        marker = "*" if name in figure.lines else "X1+D2P3"[i % 7]
        label = None if name in figure.lines else legend_name(name)
        look = {"fmt": marker, "color": INK, "markersize": 9, "capsize": 3}
        axes.errorbar([x], [rate.value], error, label=label, **look)
    _scales(axes, figure)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel("WER (raw), %")
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    longest = max(map(len, axes.get_legend_handles_labels()[1]))
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    place["ncols"] = 1 if longest > _TWO_COLUMNS else 2
    axes.legend(**place, frameon=False, fontsize=9)


def _scales(axes, figure: Figure) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    every = [r for points in figure.curves.values() for _, r in points]
    every += [*figure.lines.values(), *(r for _, r in figure.points.values())]
    if figure.doubling:
        axes.set_xscale("log", base=2)
        xs = sorted({x for points in figure.curves.values() for x, _ in points})
        marks = [2**n for n in range(12) if xs[0] <= 2**n <= max(xs[-1], 32)]
        axes.xaxis.set_major_locator(FixedLocator(marks))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
    values = [r.value for r in every]
    if min(values) > 0 and max(values) > 6 * min(values):
        low, high = min(values) / 1.3, max(r.high for r in every) * 1.1
        marks = [m * 10**n for n in range(-1, 3) for m in (1, 2, 3, 5, 7)]
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(FixedLocator(marks))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_locator(NullLocator())


def _inline(svg: str) -> str:
    """An element of the report, in its colours."""
    return re.sub(r"<\w[^>]*>", _restyled, svg[svg.index("<svg") :])


def _restyled(tag: re.Match[str]) -> str:
    style = tag[0].replace(INK, "var(--ink)")
    for i, colour in enumerate(PALETTE):
        style = style.replace(colour, f"var(--c{i})")
    style = re.sub(r' id="[\w.]+_\d+"', "", style)  # axes_1: once in each figure
    # The report's own font, and a size that fits its width.
    style = re.sub(r' (width|height)="[\d.]+pt"', "", style)
    return re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--sans)", style)
