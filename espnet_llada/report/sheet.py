"""Pictures in one style: PNG files, and SVG that follows the report's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from espnet_llada.scoring.significance import Interval
from espnet_llada.types import atomic_write

# Okabe and Ito's palette, told apart by colour-blind readers too; markers differ as
# well. In the SVG each is a CSS variable, so that dark mode may have lighter ones.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8860b", "#56b4e9")
MARKERS = "osD^vP"
INK = "#1b1f24"
_WIDE = 0.97
"""Of a sheet: what a legend takes at most. A browser's letters may be wider."""


class Picture(Protocol):
    """What can be drawn: ``name`` is of the file, ``note`` says how to read it."""

    name: str
    title: str
    note: str

    def plot(self, sheet: Any) -> None:
        """Draw on an empty matplotlib figure."""


def draw(picture: Picture, folder: Path) -> str:
    """Write ``<name>.png`` into the folder; returns the same as SVG."""
    with sheet_of(picture.name) as sheet:
        picture.plot(sheet)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / f"{picture.name}.png") as temporary:
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


def look_of(number: int) -> dict[str, Any]:
    """Colour and marker of a curve, others for each of 36."""
    lap, place = divmod(number, len(PALETTE))
    marker = MARKERS[(place + lap) % len(MARKERS)]
    return {"color": PALETTE[place], "marker": marker}


def draw_lines(axes: Any, lines: Mapping[str, Interval]) -> None:
    """Horizontal lines; the first, the baseline's, has a band."""
    for i, (name, rate) in enumerate(lines.items()):
        look = {"color": INK, "linestyle": ":" if i else "--", "linewidth": 1.2}
        axes.axhline(rate.value, label=legend_name(name), **look)
        if i == 0:
            axes.axhspan(rate.low, rate.high, color=INK, alpha=0.08, linewidth=0)


def scale_rates(axes: Any, rates: Sequence[Interval]) -> None:
    """A logarithmic y axis where the error rates need one."""
    values = [r.value for r in rates]
    if min(values) > 0 and max(values) > 6 * min(values):
        low, high = min(values) / 1.3, max(r.high for r in rates) * 1.1
        marks = [m * 10**n for n in range(-1, 3) for m in (1, 2, 3, 5, 7)]
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        mark_numbers(axes.yaxis, marks)


def mark_numbers(axis: Any, numbers: Sequence[float] | None = None) -> None:
    """Ticks at these, or where the axis has them, as short decimal numbers."""
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    if numbers is not None:
        axis.set_major_locator(FixedLocator(numbers))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def finish(
    sheet: Any,
    axes: Any,
    x_label: str,
    y_label: str,
    numbered: Sequence[str] = (),
    below: Sequence[str] = (),
) -> None:
    """Labels, grids, the legend above, and below names by number and lines of text."""
    axes.set(xlabel=x_label, ylabel=y_label)
    for each in sheet.axes:
        each.grid(color=INK, alpha=0.12, linewidth=0.6)
    handles, names = axes.get_legend_handles_labels()
    look = {"frameon": False, "fontsize": 8.5}
    for columns in (2, 1):  # two if they fit
        place = {"loc": "outside upper center", "ncols": columns}
        legend = sheet.legend(handles, names, **place, **look)
        if columns == 1 or legend.get_window_extent().width < _WIDE * sheet.bbox.width:
            break
        legend.remove()
    lines = [f"{number}  {name}" for number, name in enumerate(numbered, 1)] + [*below]
    if lines:
        from matplotlib.lines import Line2D

        none = [Line2D([], [], linestyle="none")] * len(lines)
        look |= {"handlelength": 0, "handletextpad": 0}
        sheet.legend(none, lines, loc="outside lower center", **look)
    height = 3.4 + 0.18 * (-(-len(names) // columns) + len(lines))
    sheet.set_figheight(height)  # however long these are


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
