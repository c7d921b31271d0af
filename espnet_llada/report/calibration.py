"""Reliability of word confidences: are those of 0.9 right nine times out of ten?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from espnet_llada.report.sheet import INK, finish, legend_name, look_of
from espnet_llada.scoring.confidence import bins, reliability


@dataclass(frozen=True)
class Confidences:
    """Of the words of a row, on all sets together.

    Attributes:
        label: of the row.
        right: whether the reference has each of the N words.
        before: (N,) in [0, 1], by the probabilities at which the LM decided.
        after: (N,) in [0, 1], by the model's calibration; None where it has none.
    """

    label: str
    right: Sequence[bool]
    before: Sequence[float]
    after: Sequence[float] | None = None

    @property
    def summary(self) -> str:
        """``label, 2214 words, 92 wrong: ECE 0.030, calibrated 0.008``."""
        found = reliability(self.before, self.right)
        text = f"{self.label}, {found.count} words, {found.wrong} wrong: "
        text += f"ECE {found.ece:.3f}"
        if self.after is None:
            return text
        return f"{text}, calibrated {reliability(self.after, self.right).ece:.3f}"


@dataclass(frozen=True)
class Calibration:
    """A picture: share of right words against confidence, before and after."""

    rows: Sequence[Confidences]
    name: str = "calibration"
    title: str = "Reliability of word confidences"
    note: str = (
        "In ten bins of equal width, of words aligned with the raw reference; the area "
        "of a point grows with its words. ECE: expected calibration error, the mean "
        "distance from the diagonal, each word counting once."
    )

    def plot(self, sheet: Any) -> None:
        """See ``Picture``."""
        titles = {"before": "as the LM decided", "after": "calibrated"}
        if all(row.after is None for row in self.rows):
            del titles["after"]
        panels = sheet.subplots(1, len(titles), sharey=True, squeeze=False)[0]
        for axes, (side, title) in zip(panels, titles.items(), strict=True):
            axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--")
            axes.set_title(title, fontsize=10)
            for i, row in enumerate(self.rows):
                if (values := getattr(row, side)) is None:
                    continue
                mean, share, count = zip(*bins(values, row.right), strict=True)
                look = look_of(i)
                axes.plot(mean, share, color=look["color"], linewidth=1)
                sizes = [12 + 150 * n / len(row.right) for n in count]
                label = legend_name(row.summary)
                axes.scatter(mean, share, sizes, label=label, **look)
        panels[-1].set_xlabel("confidence")
        finish(sheet, panels[0], "confidence", "share of right words")
