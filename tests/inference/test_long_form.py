"""A transcript's words go to the pieces of the recording in which they are spoken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from espnet_llada.inference.long_form import cut_transcript

words_st = st.lists(st.sampled_from("a b c d e".split()), max_size=8).map(" ".join)


@given(words_st, st.lists(words_st, min_size=1, max_size=4))
def test_no_word_is_lost(transcript, drafts):
    parts = cut_transcript(transcript, drafts)
    assert len(parts) == len(drafts)
    assert " ".join(part for part in parts if part) == transcript


@given(st.lists(words_st, min_size=1, max_size=4))
def test_a_transcript_of_the_drafts_is_cut_as_they_are(drafts):
    assert cut_transcript(" ".join(filter(None, drafts)), drafts) == drafts


def test_errors_on_either_side():
    transcript = "And, so it Was. God as a DIRECT consequence had given her"
    drafts = ["and so it was", "got as the direct consequence of", "it given her"]
    assert cut_transcript(transcript, drafts) == [
        "And, so it Was.",
        "God as a DIRECT consequence",
        "had given her",
    ]
    assert cut_transcript("a b", ["", "a b", ""]) == ["", "a b", ""]
    assert cut_transcript("", ["a", "b"]) == ["", ""]
