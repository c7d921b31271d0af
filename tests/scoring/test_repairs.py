"""Words mended and broken: by hand, and against the error counts."""

from __future__ import annotations

import random

import pytest

from espnet_llada.alignment import align
from espnet_llada.scoring.overview import about, main_cells, main_header, main_rows
from espnet_llada.scoring.repairs import Repairs, repairs
from espnet_llada.scoring.summary import POOLED, summary_rows


@pytest.mark.parametrize(
    ("first", "result", "found"),
    [
        ("A B C", "A B C", (0, 0)),
        ("A X C", "A B C", (1, 0)),  # a substitution
        ("A B C", "A X C", (0, 1)),
        ("A X C", "A Y C", (0, 0)),  # another wrong word is no new error
        ("A C", "A B C", (1, 0)),  # a deletion
        ("A B B C", "A B C", (1, 0)),  # an insertion
        ("A B C", "A B C D E", (0, 2)),
        ("X B C", "A B", (1, 1)),
        ("", "A B C", (3, 0)),
        ("A B C", "", (0, 3)),
    ],
)
def test_by_hand(first, result, found):
    assert repairs("A B C", first, result) == Repairs(*found)


def test_their_difference_is_that_of_the_errors():
    draw = random.Random(0)

    def text() -> str:
        return " ".join(draw.choices("ABCD", k=draw.randint(0, 9)))

    def errors(reference: str, found: str) -> int:
        return sum(a != b for a, b in align(reference.split(), found.split()))

    for _ in range(200):
        reference, first, result = text(), text(), text()
        found = repairs(reference, first, result)
        fewer = errors(reference, first) - errors(reference, result)
        assert found.mended - found.broken == fewer
        assert repairs(reference, result, first) == Repairs(found.broken, found.mended)


def test_the_table_has_them_of_rows_with_a_first_pass(tmp_path):
    """Normalised, and over all sets together."""
    texts = {"raw": "COLOUR B C", "first": "COLOR X C", "after": "COLOUR B X"}
    for name, text in texts.items():
        for data in ("x", "y"):
            path = tmp_path / name / data / "text"
            path.parent.mkdir(parents=True)
            path.write_text(f"u {text}\nv {texts['raw']}\n")
    systems = [(name, tmp_path / name) for name in ("first", "after")]
    firsts = {"after": "first"}
    rows = summary_rows(systems, tmp_path / "raw", "first", first_passes=firsts)
    assert {(r.set, r.repairs) for r in rows if r.system == "after"} == {
        ("x", Repairs(1, 1)),
        ("y", Repairs(1, 1)),
        (POOLED, Repairs(2, 2)),
    }
    main, _ = main_rows(rows)
    header = main_header(main)
    place = header.index("mended")
    assert header[place + 1] == "broken" and "mended" in about(main)
    cells = [main_cells(row, header) for row in main]
    assert [c[place : place + 2] for c in cells] == [("", ""), ("2", "2")]
    assert {len(c) for c in cells} == {len(header)}
    assert rows[-1].as_dict()["repairs"] == {"mended": 2, "broken": 2}
    plain = main_rows(summary_rows(systems, tmp_path / "raw"))[0]
    assert "mended" not in main_header(plain) and "mended" not in about(plain)
