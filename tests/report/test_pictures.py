"""What the pictures show, and that their texts can be read in the SVG."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from espnet_llada.report.calibration import Calibration, Confidences, merged
from espnet_llada.report.figures import Curves, Entry, curves_of
from espnet_llada.report.sheet import MARKERS, PALETTE, draw, look_of
from espnet_llada.report.tradeoffs import Pareto, Point, pareto, pareto_front, repaired
from espnet_llada.scoring.repairs import Repairs
from espnet_llada.scoring.significance import Estimate, Interval
from espnet_llada.scoring.summary import Rates, Row
from espnet_llada.scoring.wer import Counts


def interval(value: float) -> Interval:
    return Interval(value, value - 1, value + 1)


def row(label: str, wer: float, passes: float | None, own: Repairs | None = None):
    rates = Rates(Counts(10), Estimate(interval(wer), "utterances", 3))
    more = {"passes": passes, "rtf": None, "repairs": own}
    return Row(label, "all sets", 3, raw=rates, normalised=rates, **more)


ROWS = [
    row("AR", 5.0, 12.0),
    row("Whisper", 4.0, 13.0),
    row("1 step", 9.0, 1.0),
    row("2 steps", 6.0, 2.0),
    row("4 steps", 6.5, 4.0),
    row("draft", 5.5, 0.0),
    row("draft, timed", 5.5, 0.0),
    row("uncounted", 1.0, None),
    row("mask 10", 4.5, 0.5, Repairs(7, 3)),
    row("mask 30", 4.8, 1.5, Repairs(9, 8)),
    row("other", 9.9, 1.5, Repairs(0, 40)),
]
ENTRIES = [
    Entry("ar", "AR", "Left to right"),
    Entry("whisper", "Whisper", "Left to right"),
    *(
        Entry(f"s{n}", f"{n} step" + "s" * (n > 1), "Diffusion", "steps", n)
        for n in (1, 2, 4)
    ),
    Entry("draft", "draft"),
    Entry("words", "draft, timed", drawn=False),
    Entry("given", "uncounted"),
    Entry("m30", "mask 30", "Masks", "mask_ratio", 0.3, decodes=False),
    Entry("m10", "mask 10", "Masks", "mask_ratio", 0.1, decodes=False),
    Entry("other", "other", decodes=False),
]
LINES = ["AR", "Whisper"]


def texts(svg: str) -> list[str]:
    return [t.strip() for t in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def test_a_front_has_what_no_other_beats_in_both():
    points = [Point(*p) for p in [("a", 1, 9), ("b", 2, 6), ("c", 2, 5), ("d", 3, 5)]]
    points += [Point("e", 4, 4), Point("f", 1, 9.5), Point("g", 9, 4.1)]
    assert [p.label for p in pareto_front(points)] == ["a", "c", "e"]
    assert [p.label for p in pareto_front(reversed(points))] == ["a", "c", "e"]


def test_error_rate_against_passes(tmp_path):
    """Every row that decodes; those that deliberate build on another's passes."""
    (picture,) = pareto(ROWS, ENTRIES, LINES)
    assert {name: [p.label for p in ps] for name, ps in picture.groups.items()} == {
        "Left to right": ["AR", "Whisper"],
        "Diffusion": ["1 step", "2 steps", "4 steps"],
        "draft": ["draft"],
    }
    assert picture.groups["Diffusion"][1] == Point("2 steps", 2.0, 6.0, 2)
    shown = texts(draw(picture, tmp_path))
    front = [
        "1  draft (5.50 [4.50, 6.50] % in 0.0 passes)",
        "2  AR (5.00 [4.00, 6.00] % in 12.0 passes)",
        "3  Whisper (4.00 [3.00, 5.00] % in 13.0 passes)",
    ]
    assert [t for t in shown if " % in " in t] == front
    assert {"AR", "Whisper", *picture.groups} <= set(shown)
    assert [*pareto(ROWS[:1], ENTRIES[:1], LINES[:1])] == []


def test_words_mended_against_words_broken(tmp_path):
    (picture,) = repaired(ROWS, ENTRIES)
    assert picture.groups == {
        "Masks": [Point("mask 30", 8, 9, 0.3), Point("mask 10", 3, 7, 0.1)],
        "other": [Point("other", 40, 0)],
    }
    assert [p.label for p in picture.front] == ["mask 10", "mask 30"]
    shown = texts(draw(picture, tmp_path))
    front = ["1  mask 10 (7 mended, 3 broken)", "2  mask 30 (9 mended, 8 broken)"]
    away = "off the picture: other (40 broken and more)"
    assert {"Masks", *front, away} <= set(shown) and "other" not in shown
    (alone,) = repaired(ROWS[-1:], ENTRIES[-1:])
    assert "other" in texts(draw(alone, tmp_path)), "all that there is"
    assert [*repaired(ROWS[:8], ENTRIES[:8])] == []


def test_curves_join_the_rows_of_an_option():
    found = {curves.name: curves for curves in curves_of(ROWS, ENTRIES, LINES)}
    assert [*found] == ["wer_mask_ratio", "wer_steps"]
    points = [(x, rate.value) for x, rate in found["wer_mask_ratio"].curves["Masks"]]
    assert points == [(10.0, 4.5), (30.0, 4.8)]
    assert [rate.value for rate in found["wer_steps"].lines.values()] == [5.0, 4.0]


def test_reliability_before_and_after(tmp_path):
    right = [True] * 3 + [False]
    row = Confidences("a row", right, [1.0] * 4, [0.75] * 4)
    assert row.summary == "a row: 1 of 4 words wrong, ECE 0.250, calibrated 0.000"
    plain = Confidences("no CTC", right, [0.5] * 4)
    assert plain.summary == "no CTC: 1 of 4 words wrong, ECE 0.250"
    shown = texts(draw(Calibration([row, plain]), tmp_path))
    assert {row.summary, plain.summary, "calibrated"} <= set(shown)
    alone = texts(draw(Calibration([plain]), tmp_path))
    assert "calibrated" not in alone, "an empty panel"


def test_points_of_few_words_are_joined():
    many, few = (0.9, 0.8, 30), (0.5, 0.4, 10)
    assert merged([few, many]) == [pytest.approx((0.8, 0.7, 40))]
    assert merged([many, few]) == [pytest.approx((0.8, 0.7, 40))]
    assert merged([few, few, many]) == [pytest.approx((*few[:2], 20)), many]
    assert merged([many, many]) == [many, many] and merged([few]) == [few]


def test_names_are_shown_as_they_are(tmp_path):
    """No dollar sign begins a formula, and no underscore hides a curve."""
    rates = [interval(value) for value in (3.0, 5.0, 40.0)]
    figure = Curves(
        *("names", "title", r"x of $\foo$"),
        curves={r"$\foo$": [(1, rates[0]), (8, rates[2])]},
        lines={"_base {": rates[0]},
    )
    shown = texts(draw(figure, tmp_path))
    assert {r"x of $\foo$", r"$\foo$", "_base {"} <= set(shown)
    assert sum("$" in text for text in shown) == 2, "a tick has one"
    assert (tmp_path / "names.png").read_bytes().startswith(b"\x89PNG")
    names = {r"10 $ \frac": rates[0], "#0072b2": rates[1], "_<i>": rates[2]}
    groups = {n: [Point(n, 3.0, r.value)] for n, r in names.items()}
    svg = draw(Pareto(groups, names, []), tmp_path)
    assert {*list(names)[:2], "_&lt;i&gt;"} <= set(texts(svg)) and "<i>" not in svg


def test_looks_differ():
    looks = [tuple(look_of(n).values()) for n in range(len(PALETTE) * len(MARKERS))]
    assert len({*looks}) == len(looks)
    for one, other in itertools.pairwise(looks):
        assert one[0] != other[0] and one[1] != other[1]


def test_every_picture_says_what_it_is(tmp_path: Path):
    found = [*pareto(ROWS, ENTRIES, LINES), *repaired(ROWS, ENTRIES)]
    found += [*curves_of(ROWS, ENTRIES, LINES), Calibration([])]
    names = [picture.name for picture in found]
    assert len({*names}) == len(names) and all(p.title for p in found)
