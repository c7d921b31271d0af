"""What of a first pass an LM cannot write, with the vocabulary of the shipped one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_llada.inference.first_pass import FirstPass
from espnet_llada.io.weights.assets import MINI
from espnet_llada.networks.tokenizer import LMTokenizer

TOKENIZER = LMTokenizer(MINI / "lm")
words_st = st.one_of(
    st.sampled_from(
        "THE EARLIEST dog CAFÉ 3.5 <unk> </s> WASN’T 007 ill-disposed".split()
    ),
    st.text(min_size=1, max_size=8).map(lambda t: "".join(t.split())).filter(bool),
)
texts_st = st.lists(words_st, max_size=8).map(" ".join)
found_st = st.lists(st.sampled_from("the dog cafe an earliest wasn't".split()))


@settings(max_examples=200, deadline=None)
@given(texts_st)
def test_nothing_changed_is_the_very_string(text):
    first_pass = FirstPass(text, TOKENIZER)
    assert first_pass.restored(first_pass.visible, "auto") == text
    assert TOKENIZER.eos_id not in TOKENIZER.encode(first_pass.visible)
    assert TOKENIZER.encode("<unk>")[0] not in TOKENIZER.encode(first_pass.visible)


@settings(max_examples=200, deadline=None)
@given(texts_st, found_st)
def test_no_word_that_the_lm_cannot_write_is_lost(text, found):
    first_pass = FirstPass(text, TOKENIZER)
    pairs = zip(first_pass.words, first_pass.unwritable, strict=True)
    kept = iter(first_pass.restored(" ".join(found), "auto").split())
    for word in (word for word, unwritable in pairs if unwritable):
        assert word in kept, "in this order"


@pytest.mark.parametrize(
    ("text", "found", "expected"),
    [
        (
            "THE EARLIEST CAFÉ PRINTED",
            "the early cafe printed",
            "THE EARLY CAFÉ PRINTED",
        ),
        # Beside it something else, which is how 3.5 is spoken.
        ("A 3.5 DOG", "a three point five dog", "A 3.5 DOG"),
        ("A 3.5 DOG", "the three point five cat", "A 3.5 DOG"),
        ("A BIG CAFÉ", "one big cafe", "ONE BIG CAFÉ"),
        ("a big dog", "one big dog", "one big dog"),
        ("A big dog", "one big dog", "one big dog"),
        ("ILL-DISPOSED MEN", "ill disposed man", "ILL-DISPOSED MAN"),
        ("THE <UNK> DOG", "the dog", "THE <UNK> DOG"),
        ("DOG </s>", "dog", "DOG </s>"),
        ("", "a dog", "A DOG"),
        ("<unk> A", "a dog", "<unk> A DOG"),
        ("A DOG", "", ""),
        ("É", "", "É"),
    ],
)
def test_what_stands_around_it_may_change(text, found, expected):
    assert FirstPass(text, TOKENIZER).restored(found, "auto") == expected


def test_a_case_that_was_asked_for_is_for_all_words():
    first_pass = FirstPass("The CAFÉ dog", TOKENIZER)
    assert first_pass.restored("the cafe cat", "lower") == "the café cat"
    assert first_pass.restored("the cafe cat", "upper") == "THE CAFÉ CAT"
