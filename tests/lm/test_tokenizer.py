from __future__ import annotations

import pytest

from espnet_llada.lm.tokenizer import LMTokenizer, to_case
from espnet_llada.types import UserError


def test_text_survives_in_the_lms_case(tiny_lm):
    tokenizer = LMTokenizer(tiny_lm, "lower")
    ids = tokenizer.encode("  THE QUICK   BROWN FOX ")
    assert tokenizer.decode(ids) == "the quick brown fox"
    assert tokenizer.eos_id not in ids
    assert len(tokenizer.tokens(ids)) == len(ids)
    assert all(t and " " not in t for t in tokenizer.tokens(ids))


def test_special_tokens_are_not_text(tiny_lm):
    tokenizer = LMTokenizer(tiny_lm)
    ids = tokenizer.encode("the dog")
    assert tokenizer.decode([*ids, tokenizer.eos_id]) == "the dog"


def test_an_empty_transcript_has_no_tokens(tiny_lm):
    assert LMTokenizer(tiny_lm).encode("") == []
    assert LMTokenizer(tiny_lm).decode([]) == ""


def test_a_chat_template_must_exist(tiny_lm):
    with pytest.raises(UserError, match="chat_template"):
        LMTokenizer(tiny_lm).prompt("Transcribe the audio:", chat_template=True)


def test_bad_case_and_bad_directory(tiny_lm, tmp_path):
    with pytest.raises(UserError, match="title"):
        to_case("x", "title")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        LMTokenizer(tmp_path)
