"""A transcript's words go to the pieces of the recording in which they are heard."""

from __future__ import annotations

from espnet_llada.extensions.long_form import cut_transcript
from hypothesis import given
from hypothesis import strategies as st

words_st = st.lists(st.sampled_from("a b c d e".split()), max_size=8).map(" ".join)


@given(words_st, st.lists(words_st, min_size=1, max_size=4))
def test_no_word_is_lost(transcript, heard):
    parts = cut_transcript(transcript, heard)
    assert len(parts) == len(heard)
    assert " ".join(part for part in parts if part) == transcript


@given(st.lists(words_st, min_size=1, max_size=4))
def test_what_was_heard_is_cut_as_it_was(heard):
    assert cut_transcript(" ".join(filter(None, heard)), heard) == heard


def test_errors_on_either_side():
    transcript = "And, so it Was. God as a DIRECT consequence had given her"
    heard = ["and so it was", "got as the direct consequence of", "it given her"]
    assert cut_transcript(transcript, heard) == [
        "And, so it Was.",
        "God as a DIRECT consequence",
        "had given her",
    ]
    assert cut_transcript("a b", ["", "a b", ""]) == ["", "a b", ""]
    assert cut_transcript("", ["a", "b"]) == ["", ""]
