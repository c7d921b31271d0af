"""The report stands alone, shows what was given, and marks the right words."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import espnet_llada.report
from espnet_llada.report.calibration import Confidences
from espnet_llada.report.canvas import canvas
from espnet_llada.report.canvases import Canvases, CanvasText
from espnet_llada.report.figures import Entry
from espnet_llada.report.report import Example, Report, pictures_of, write_report
from espnet_llada.report.words import Chosen, Word, choose, marked
from espnet_llada.scoring.published import Cell as PublishedCell
from espnet_llada.scoring.published import Comparison
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
    assert marked("A B C D", "A X D E", "A B D E") == [
        Word("A", []),
        Word("B", [], "missing", missing=True),
        Word("X", ["new", "bad"], "said: C"),
        Word("D", []),
        Word("E", ["bad"], "nothing was said here"),
    ]


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
    shown = [(caption, len(cells)) for caption, cells in canvas([*FRAMES, kept])]
    captions = ["masked on entry", "pass 1", "pass 2", "result of rescoring"]
    assert shown == list(zip(captions, (3, 3, 3, 4), strict=True))


def test_canvas_cells_do_not_move():
    frames = [cells for _, cells in canvas(FRAMES)]
    assert [[cell.width for cell in cells] for cells in frames] == [[3, 1, 1]] * 3
    masked = [["mask" in cell.kinds for cell in cells] for cells in frames]
    assert list(map(sum, masked)) == [3, 2, 0]
    first, _, last = frames[2]
    assert first == (
        ["cell", "word", "measured"],
        3,
        "a<b",
        "▁a<b: probability 0.25",
        25,
    )
    assert "now" in frames[1][0].kinds
    assert (last.text, last.title, last.percent) == ("·", "no word", None)


class _Page(HTMLParser):
    """Open elements, what would be fetched or run, and what is read."""

    def __init__(self, path: Path):
        super().__init__()
        self.open, self.fetched, self.started = [], [], Counter()
        self.links, self.places, self.handlers = set(), Counter(), set()
        self.texts, self.titles = set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)
        self.started[tag] += 1
        for name, value in attrs:
            if name.startswith("on"):
                self.handlers.add(name)
            if name == "title":
                self.titles.add(value)
            if name == "id":
                self.places[value] += 1
            if name in ("src", "href", "xlink:href"):
                if value.startswith("#"):
                    self.links.add(value[1:])
                else:
                    self.fetched.append(value)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        self.texts.add(" ".join(data.split()))

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
    systems = [(n, top / n) for n in labels]
    firsts = {"steps4": "base"}
    rows = summary_rows(systems, top / "raw", "base", first_passes=firsts)
    entries = [
        Entry("base", "base"),
        Entry("steps1", "steps1", "Curve & Co", "steps", 1.0),
        Entry("steps4", "steps4", "Curve & Co", "steps", 4.0),
    ]
    chosen = Chosen("u1", "better", 1, 0)
    example = Example("steps4", "x", chosen, "A B", "A B", "A C", FRAMES)
    main = [row for row in rows if row.set == "all sets"]
    sure = [Confidences("steps4", [True, False], [0.9, 0.8], [0.9, 0.1])]
    given = rows, entries, ["base"], labels, [example]
    texts = (0, "A B"), (1, "A C"), (None, "A D")
    several = [
        CanvasText(i, t, ["▁a", "▁x"], [0.9, 0.1], 4, 0.5, chosen=i is None)
        for i, t in texts
    ]
    shown = [Canvases("steps4", "x", "u1", "A B", several)]
    report = Report("T < 1", "sub", *given, confidences=sure, canvases=shown)
    names = [picture.name for picture in pictures_of(report, main)]
    assert names == ["wer_passes", "mended_broken", "wer_steps", "calibration"]
    return report


@pytest.fixture(scope="module")
def page(report, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(report, path)
    return path


def test_the_page_is_whole_and_fetches_nothing(page):
    html, parser = page.read_text(), _Page(page)
    assert parser.open == [] and parser.fetched == []
    assert "@import" not in html and "url(" not in re.sub(r"url\(#\w+\)", "", html)
    assert "default-src 'none'" in html
    assert html.count("<svg") == 4 and "var(--c0)" in html
    assert "T &lt; 1" in html and "Curve &amp; Co" in html
    assert '<td> <span class="badge">result</span></td>' in html, "of no canvas"
    sections = {"figures", "all-rows", "pass-by-pass", "several-canvases"}
    assert sections <= parser.links <= set(parser.places)
    assert set(parser.places.values()) == {1}
    templates = Path(espnet_llada.report.__file__).parent / "templates"
    for name in ("report.css", "report.js"):
        assert (templates / name).read_text() in html


def test_a_section_that_is_not_there_has_no_link(report, tmp_path):
    plain = [Entry(entry.key, entry.label) for entry in report.entries]
    few = [replace(r, passes=None, repairs=None) for r in report.rows]
    few = {"rows": few, "entries": plain, "examples": []}
    few |= {"confidences": [], "canvases": []}
    write_report(replace(report, **few), tmp_path / "report.html")
    assert _Page(tmp_path / "report.html").links == {"all-rows"}


def test_published_values_stand_beside_ours(report, tmp_path):
    cell = PublishedCell(2.5, "<a href='//x'>a digest</a>", "second_hand")
    found = [Comparison("best < all", cell, report.rows[0])]
    write_report(replace(report, published=found), tmp_path / "report.html")
    parser = _Page(tmp_path / "report.html")
    assert "published" in parser.links and parser.places["published"] == 1
    assert parser.fetched == [] and parser.open == []
    assert {"best < all", "2.50", f"second hand: {cell.source}"} <= parser.texts


@pytest.mark.filterwarnings("ignore:constrained_layout not applied")
def test_no_text_is_markup_or_a_template(report, page, tmp_path):
    markup = "</title><script>x()</script>{{ 7 }}{% if %}\"'><i onclick='x()'>&amp;"

    def bad(text: str) -> str:
        return text + markup

    rows = [
        replace(
            r,
            system=bad(r.system),
            set=r.set if r.set == "all sets" else bad(r.set),
            baseline=r.baseline and bad(r.baseline),
        )
        for r in report.rows
    ]
    entries = [replace(e, label=bad(e.label), group=bad("g")) for e in report.entries]
    cells = (Cell(bad("▁token"), probability=0.5), Cell(bad("▁next"), given=True))
    (example,) = report.examples
    words = 'bad<script>{{7*7}}"onclick=x() B'
    example = replace(
        example,
        label=bad(example.label),
        set=bad("set"),
        chosen=replace(example.chosen, utt_id=bad("utt")),
        reference=words,
        result=words.replace("bad", "BAD"),
        first="",
        frames=[Frame("pass", 1, cells)],
    )
    labels = [bad(label) for label in report.headline]
    given = rows, entries, labels[:1], labels, [example]
    sure = [replace(c, label=bad(c.label)) for c in report.confidences]
    (several,) = report.canvases
    texts = [replace(c, text=words) for c in several.canvases]
    ids = {"label": bad("l"), "set": bad("s"), "utt_id": bad("u"), "canvases": texts}
    more = {"confidences": sure, "canvases": [replace(several, **ids)]}
    hostile = Report(bad("title"), bad("subtitle"), *given, **more)
    write_report(hostile, tmp_path / "report.html")
    good, parser = _Page(page), _Page(tmp_path / "report.html")
    assert parser.open == [] and parser.handlers == set() and parser.fetched == []
    for tag in ("script", "style", "title", "table", "h3"):
        assert parser.started[tag] == good.started[tag]
    shown = {
        bad(t)
        for t in ("title", "subtitle", "g", "base", "steps4", "set", "x", "l", "s")
    }
    assert {" ".join(text.split()) for text in shown} <= parser.texts
    assert {bad("token"), words} <= parser.texts
    assert f"{bad('▁token')}: probability 0.50" in parser.titles
    assert f"said: {words.split()[0]}" in parser.titles


def test_figures_are_png_files_too(page):
    files = sorted((page.parent / "figures").iterdir())
    names = ["calibration", "mended_broken", "wer_passes", "wer_steps"]
    assert [f.stem for f in files] == names
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in files)
