"""Reliability of word confidences: are those of 0.9 right nine times out of ten?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from espnet_llada.report.sheet import INK, finish, legend_name, look_of
from espnet_llada.scoring.confidence import bins, reliability

_FEWEST = 20  # words of a point


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
        """``label: 92 of 2214 words wrong, ECE 0.030, calibrated 0.008``."""
        found = reliability(self.before, self.right)
        text = f"{self.label}: {found.wrong} of {found.count} words wrong, "
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
        "Words in ten bins of equal width, neighbouring ones together where they have "
        f"fewer than {_FEWEST}; right as aligned with the raw reference. Bars: 95 % "
        "intervals (Wilson), as if words erred independently. ECE: expected "
        "calibration error, the mean distance from the diagonal in the ten bins."
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
                if (values := getattr(row, side)) is not None:
                    _curve(axes, merged(bins(values, row.right)), row, i)
        panels[-1].set_xlabel("confidence")
        finish(sheet, panels[0], "confidence", "share of right words")


def merged(
    found: Sequence[tuple[float, float, int]],
) -> list[tuple[float, float, int]]:
    """Bins of ``scoring.confidence.bins``, none but the only one with too few words.

    Those too small join the next one, the last ones the one before.
    """
    whole: list[tuple[float, float, int]] = []
    for one in found:
        if whole and whole[-1][2] < _FEWEST:
            one = _together(whole.pop(), one)
        whole.append(one)
    if len(whole) > 1 and whole[-1][2] < _FEWEST:
        last = whole.pop()
        whole[-1] = _together(whole[-1], last)
    return whole


def _together(
    one: tuple[float, float, int], other: tuple[float, float, int]
) -> tuple[float, float, int]:
    n = one[2] + other[2]
    mean, share = ((one[i] * one[2] + other[i] * other[2]) / n for i in (0, 1))
    return mean, share, n


def _curve(axes: Any, points: Sequence[tuple], row: Confidences, number: int) -> None:
    mean, share, _ = zip(*points, strict=True)
    ends = [_wilson(y, n) for _, y, n in points]
    low, high = zip(*ends, strict=True)
    look = look_of(number)
    axes.vlines(mean, low, high, color=look["color"], linewidth=1, alpha=0.6)
    axes.plot(mean, share, markersize=5, label=legend_name(row.summary), **look)


def _wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    z2 = 1.96**2 / count
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4))
    return tuple((share + z2 / 2 + side * half) / (1 + z2) for side in (-1, 1))
