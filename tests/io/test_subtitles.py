"""CTM, SRT and WebVTT; the times of a first pass where its words stayed."""

from __future__ import annotations

import pytest

from espnet_llada.io.first_pass import TimedText, read_timed_first_pass
from espnet_llada.io.subtitles import (
    ctm,
    cues_of,
    filled,
    srt,
    vtt,
    with_first_pass_times,
)
from espnet_llada.types import Word

CTM = "a 1 0.500 0.250 The 0.900\na 1 0.750 0.250 fox 0.900\n"


def words(*given: tuple) -> list[Word]:
    return [Word(text, *times) for text, *times in given]


def test_what_is_written_is_read_again(tmp_path):
    said = words(("The", 0.5, 0.75, 0.9), ("fox", 0.75, 1.0, 0.9), ("<b> & c", 3.0, 4))
    assert ctm("a", said[:2], 5.0) == CTM
    cues = cues_of(said, 5.0)
    assert cues == [(0.5, 1.0, "The fox"), (3.0, 4, "<b> & c")]
    assert srt(cues).startswith("1\n00:00:00,500 --> 00:00:01,000\nThe fox\n\n2\n")
    assert "00:00:03.000 --> 00:00:04.000\n&lt;b&gt; &amp; c\n" in vtt(cues)
    assert srt([(3723.0456, 3724, "x")]).startswith("1\n01:02:03,046 -->")
    for name, text in (("a.ctm", CTM), ("a.srt", srt(cues[:1])), ("a.vtt", vtt(cues))):
        file = tmp_path / name
        file.write_text(text)
        found = read_timed_first_pass(file, ["a"])["a"]
        if name == "a.ctm":
            assert found == TimedText("The fox", ((0.5, 0.75), (0.75, 1.0)))
        else:
            assert found.cues[0] == (0.5, 1.0, 2) and not found.words
    assert found.text == "The fox <b> & c" and len(found.cues) == 2


def test_cues_end_at_pauses_sentences_and_two_lines():
    long = [(f"word{i:02}", i * 0.4, i * 0.4 + 0.4) for i in range(30)]
    said = words(("One.", 0.0, 0.3), ("Two", 0.3, 0.5), ("three", 1.2, 1.5))
    texts = [text for *_, text in cues_of(said, 2.0)]
    assert texts == ["One.", "Two", "three"]
    cues = cues_of(words(*long), 12.0)
    assert all(len(text) <= 84 and end - start <= 7 for start, end, text in cues)
    assert " ".join(text for *_, text in cues) == " ".join(w for w, *_ in long)


def test_words_without_times_share_what_is_left():
    said = [Word("a"), Word("b", 1.0, 2.0), Word("c"), Word("d"), Word("e", 4.0, 5.0)]
    spans = [(word.start, word.end) for word in filled(said, 6.0)]
    assert spans == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    # Of a model without a CTC: a cue for each segment.
    segments = [(0.0, 3.0), (3.0, 6.0)]
    said = [Word(t, within=segments[t > "b"]) for t in "abcd"]
    assert cues_of(said, 6.0) == [(0.0, 3.0, "a b"), (3.0, 6.0, "c d")]


def test_words_that_stayed_have_the_first_passs_times():
    given = TimedText("The quick, fax", ((0.1, 0.2), (0.2, 0.3), (0.4, 0.5)))
    found = words(("THE", 9.0, 9.1), ("quick,", 9.1, 9.2), ("fox", 0.41, 0.52))
    made, cues = with_first_pass_times(found, given)
    assert [(w.start, w.end) for w in made] == [(0.1, 0.2), (0.2, 0.3), (0.41, 0.52)]
    assert not cues
    given = TimedText("The quick, fax", (), ((0.0, 1.0, 2), (1.5, 2.0, 1)))
    made, cues = with_first_pass_times([*found, Word("jumps")], given)
    assert made[0].start == 9.0
    assert cues == [(0.0, 1.0, "THE quick,"), (1.5, 2.0, "fox jumps")]


def test_times_of_new_words_lie_between_those_that_stayed():
    """The first pass's clock need not be the CTC's."""
    given = TimedText("The quick fax ran", ((5.0, 5.2), (5.2, 5.4), (5.4, 5.6), (6, 7)))
    own = [("The", 1.0, 1.2), ("quick", 1.2, 1.4), ("fox", 1.4, 1.6), ("ran", 2, 3)]
    made, _ = with_first_pass_times(words(*own, ("off", 3, 4)), given)
    assert [(w.start, w.end) for w in made] == [
        *((5.0, 5.2), (5.2, 5.4), (5.4, 5.4), (6, 7), (7, 7)),
    ]
    late = [(text, start + 9, end + 9) for text, start, end in own]
    made, _ = with_first_pass_times(words(*late, ("off", 13, 14)), given)
    assert [(w.start, w.end) for w in made[2:]] == [(6, 6), (6, 7), (13, 14)]


def test_a_cue_lasts():
    """An end at the start, which WebVTT forbids."""
    for make, point in ((srt, ","), (vtt, ".")):
        text = make([(1.0, 1.0, "a"), (2.9996, 2.9999, "b")])
        assert f"00:00:01{point}000 --> 00:00:01{point}001\na\n" in text
        assert f"00:00:03{point}000 --> 00:00:03{point}001\nb\n" in text


@pytest.mark.parametrize(
    ("name", "content", "cues"),
    [
        ("a.tsv", "start\tend\ttext\n0\t1500\tThe\n2000\t2500\tfox\n", 2),
        ("a.txt", "The\nfox\n", 0),
        ("a.json", '{"segments": [{"start": 0, "end": 1.5, "text": " The fox"}]}', 1),
        ("a.json", '{"segments": [{"start": 0, "end": 1e99, "text": " The fox"}]}', 0),
        ("a.srt", "1\n00:00:00,000 --> 00:00:01,500\nThe fox\n", 1),
        ("a.srt", "1\nnow --> then\nThe fox\n", 0),
    ],
)
def test_times_of_first_passes(tmp_path, name, content, cues):
    file = tmp_path / name
    file.write_text(content)
    for path in (file, tmp_path):
        found = read_timed_first_pass(path, ["a"])["a"]
        assert found.text == "The fox" and len(found.cues) == cues
        assert not cues or found.cues[0][:2] == (0.0, 1.5)
