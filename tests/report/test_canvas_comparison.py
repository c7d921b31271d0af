"""Canvases beside each other: which utterance, and what stands in which column."""

from __future__ import annotations

from espnet_llada.report.canvases import (
    Canvases,
    CanvasText,
    Slot,
    most_different,
    side_by_side,
)


def canvas(
    number: int | None, text: str, chosen: bool = False, tokens: str | None = None
):
    own = tokens.split() if tokens else []
    sure = [round(0.9 - 0.1 * i, 1) for i in range(len(own))]
    return CanvasText(number, text, own, sure, 4, 0.5, chosen)


def test_what_is_shown():
    alike = [canvas(0, "A", True), canvas(1, "A")]
    first = [canvas(0, "A", True), canvas(1, "B"), canvas(2, "C")]
    other = [canvas(0, "A"), canvas(1, "B", True), canvas(2, "B")]
    more = [canvas(0, "A"), canvas(1, "B", True), canvas(2, "C")]
    found = {"u1": alike, "u2": first, "u3": other, "u4": more, "u5": more}
    assert most_different(found) == "u4"
    assert most_different({"u1": alike, "u2": first}) == "u2"
    none = [canvas(0, "A"), canvas(1, "B")]
    assert most_different({"u1": alike, "u2": first, "u0": none}) == "u2"
    voted = [canvas(0, "A"), canvas(1, "B"), canvas(None, "C", True)]
    assert most_different({"u2": first, "u3": voted}) == "u3"
    assert most_different({"u1": alike}) is None


def test_words_stand_below_those_of_the_reference():
    own = [
        canvas(0, "A X C", tokens="▁a x ▁c"),  # not three words: no colours
        canvas(1, "A UH B", True, "a ▁u h ▁b"),
        canvas(2, "B C D", tokens="▁b ▁c ▁d"),
    ]
    head, rows = side_by_side(Canvases("row", "set", "u", "A B C", own))
    assert head == ["A", "", "B", "C", ""]
    assert rows[0] == [
        Slot("A", False),
        Slot("", False),
        Slot("X", True),
        Slot("C", False),
        Slot("", False),
    ]
    assert rows[1] == [
        Slot("A", False, 90),
        Slot("UH", True, 70),
        Slot("B", False, 60),
        Slot("", True),
        Slot("", False),
    ]
    assert [slot.text for slot in rows[2]] == ["", "", "B", "C", "D"]
    assert [slot.wrong for slot in rows[2]] == [True, False, False, False, True]


def test_what_all_have_right_is_left_out():
    own = [canvas(0, "A B C D E X G", True), canvas(1, "A B C D E F G")]
    head, rows = side_by_side(Canvases("row", "set", "u", "A B C D E F G", own))
    assert head == ["…", "E", "F", "G"]
    assert [[slot.text for slot in row] for row in rows] == [
        ["…", "E", "X", "G"],
        head,
    ]


def test_nothing_was_said():
    own = [canvas(0, "", True), canvas(1, "UH")]
    head, rows = side_by_side(Canvases("row", "set", "u", "", own))
    assert head == [""] and rows == [[Slot("", False)], [Slot("UH", True)]]
