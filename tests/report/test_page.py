"""The page stands alone, shows what was given, and marks the right words."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from espnet_llada.report.canvas import canvas
from espnet_llada.report.figures import Entry, Figure, draw, figures_of
from espnet_llada.report.report import Example, Report, write_report
from espnet_llada.report.words import Chosen, choose, marked
from espnet_llada.scoring.significance import Interval
from espnet_llada.scoring.summary import summary_rows
from espnet_llada.types import Cell, Frame

FRAMES = [
    Frame("masked", 0, (Cell(""), Cell(""), Cell(""))),
    Frame("pass", 1, (Cell("▁a<b", True, False, 0.25), Cell(""), Cell(""))),
    Frame(
        "pass",
        2,
        (
            Cell("▁a<b", False, False, 0.25),
            Cell("c", True, False, 1.0),
            Cell("</s>", end=True),
        ),
    ),
]


def test_wrong_missing_and_changed_words():
    assert marked("A B C D", "A X D E", "A B D E").split(" ", 1)[1] == (
        '<del title="missing">B</del> '
        '<mark class="new bad" title="said: C">X</mark> D '
        '<mark class="bad" title="nothing was said here">E</mark>'
    )
    assert marked("A <B>", "A <B>") == "A &lt;B&gt;"


def test_what_is_chosen():
    refs = {"u1": "A B C", "u2": "D E", "u3": "F G", "u4": "H"}
    first = {"u1": "X Y C", "u2": "D X", "u3": "F G", "u4": "X"}
    after = {"u1": "A B C", "u2": "D X", "u3": "F X", "u4": "X"}
    found = choose(refs, after, first)
    assert [(c.utt_id, c.why, c.before, c.after) for c in found] == [
        ("u1", "better", 2, 0),
        ("u3", "worse", 0, 1),
    ]
    found = choose(refs, after)
    assert [(c.utt_id, c.why) for c in found] == [("u1", "right"), ("u4", "wrong")]


def test_what_is_kept_has_a_row_of_its_own():
    kept = Frame("kept", 2, (Cell("▁a"),) * 4)
    html = canvas([*FRAMES, kept])
    captions = re.findall(r'class="caption">([^<]*)<', html)
    assert captions == ["masked on entry", "pass 1", "pass 2", "kept, read along"]
    cells = [frame.count("<i ") for frame in html.split('class="frame"')[1:]]
    assert cells == [3, 3, 3, 4]


def test_canvas_cells_do_not_move():
    html = canvas(FRAMES)
    assert html.count('class="frame"') == 3
    frames = html.split('class="frame"')[1:]
    widths = [re.findall(r"--w:(\d+)", frame) for frame in frames]
    assert widths[0] == widths[1] == widths[2] == ["3", "1", "1"]
    assert [frame.count(" mask") for frame in frames] == [3, 2, 0]
    assert "--p:25%" in frames[1] and frames[1].count("now") == 1
    assert "a&lt;b" in html and "pass 2" in frames[2]


class _Page(HTMLParser):
    """Open elements, and everything that would be fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.fetched = [], []
        self.links, self.places = set(), set()

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.places.add(value)
            if name in ("src", "href", "xlink:href"):
                if value.startswith("#"):
                    self.links.add(value[1:])
                else:
                    self.fetched.append(value)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    top = tmp_path_factory.mktemp("sweep")
    ref = "".join(f"u{i} A B C D\n" for i in range(9))
    for name in ("raw", "base", "steps1", "steps4"):
        for data in ("x", "y"):
            folder = top / name / data
            folder.mkdir(parents=True)
            last = {"base": "X", "steps4": "Y"}.get(name, "D")
            (folder / "text").write_text(ref.replace("D", last))
            (folder / "passes").write_text(
                "".join(
                    f"u{i} {name[-1] if name[-1] in '14' else 7}\n" for i in range(9)
                )
            )
    labels = ("base", "steps1", "steps4")
    rows = summary_rows([(n, top / n) for n in labels], top / "raw", "base")
    entries = [
        Entry("base", "base"),
        Entry("steps1", "steps1", "Curve & Co", "steps", 1.0),
        Entry("steps4", "steps4", "Curve & Co", "steps", 4.0),
    ]
    chosen = Chosen("u1", "better", 1, 0)
    example = Example("steps4", "x", chosen, "A B", "A B", "A C", FRAMES)
    main = [row for row in rows if row.set == "all sets"]
    assert {f.name for f in figures_of(main, entries, ["base"])} == {
        "wer_steps",
        "wer_passes",
    }
    return Report("T < 1", "sub", rows, entries, ["base"], labels, [example])


@pytest.fixture(scope="module")
def page(report, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(report, path)
    return path


def test_the_page_is_whole_and_fetches_nothing(page):
    html = page.read_text()
    parser = _Page()
    parser.feed(html)
    assert parser.open == [] and parser.fetched == []
    assert "@import" not in html and "url(" not in re.sub(r"url\(#\w+\)", "", html)
    assert html.count("<svg") == 2 and "var(--c0)" in html
    assert "T &lt; 1" in html and "Curve &amp; Co" in html
    sections = {"curves", "all-rows", "pass-by-pass"}
    assert sections <= parser.links <= parser.places


def test_a_section_that_is_not_there_has_no_link(report, tmp_path):
    plain = [Entry(entry.key, entry.label) for entry in report.entries]
    write_report(replace(report, entries=plain, examples=[]), tmp_path / "report.html")
    parser = _Page()
    parser.feed((tmp_path / "report.html").read_text())
    assert parser.links == {"all-rows"}


def test_figures_are_png_files_too(page):
    files = sorted((page.parent / "figures").iterdir())
    assert [f.name for f in files] == ["wer_passes.png", "wer_steps.png"]
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in files)


def test_names_are_shown_as_they_are(tmp_path):
    """No dollar sign begins a formula, and no underscore hides a curve."""
    rates = [Interval(value, value - 1, value + 1) for value in (3.0, 5.0, 40.0)]
    figure = Figure(
        *("names", "title", r"x of $\foo$"),
        curves={r"$\foo$": [(1, rates[0]), (8, rates[2])]},
        lines={"_base {": rates[0]},
        points={r"10 $ \frac": (2.0, rates[1])},
    )
    svg = draw(figure, tmp_path)
    texts = [t.strip() for t in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
    assert {r"x of $\foo$", r"$\foo$", "_base {", r"10 $ \frac"} <= set(texts)
    assert sum("$" in text for text in texts) == 3, "a tick has one"
    assert (tmp_path / "names.png").read_bytes().startswith(b"\x89PNG")
