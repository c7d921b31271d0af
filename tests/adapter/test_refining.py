"""A draft that its own reader corrects; the reader here knows what is said."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_llada.adapter.numbering import spoken
from espnet_llada.adapter.reader import Reader
from espnet_llada.adapter.refining import refined

VOCAB, EOS = 12, 10
words_st = st.lists(st.integers(0, 9), max_size=7)


class Said(Reader):
    """Expects what is said next, behind each token; all else is equally unlikely."""

    def __init__(self, *said: list[int]):
        self.said, self.eos, self.rows = said, EOS, 0

    def __call__(self, rows, texts):
        self.rows += len(texts)
        return [self.read(*pair) for pair in zip(rows, texts, strict=True)]

    def read(self, row, text):
        log_probs = torch.full((len(text) + 1, VOCAB), math.log(0.1 / (VOCAB - 1)))
        target = [*self.said[row], EOS]
        for place, n in enumerate(spoken(text, target[:-1])):
            log_probs[place, target[n]] = math.log(0.9)
        return self._reading(row, list(text), log_probs, torch.zeros(0))

    def behind(self, readings, kept, texts):
        whole = [
            self.read(r.row, [*r.text[:n], *text]).log_probs[n + 1 :]
            for r, n, text in zip(readings, kept, texts, strict=True)
        ]
        return whole, [torch.zeros(0)] * len(whole)

    def again(self, readings, texts):
        return self([r.row for r in readings], texts)


@pytest.mark.parametrize(
    "draft",
    [
        [1, 2, 3, 4, 5],
        [1, 9, 3, 4, 5],  # another word
        [1, 3, 4, 5],  # one too few
        [1, 2, 8, 3, 4, 5],  # one too many
        [2, 3, 4, 5],  # at the beginning
        [1, 2, 3, 4],  # and at the end
        [1, 2, 3, 4, 5, 7],
        [9, 2, 3, 8, 5],  # two, apart
    ],
)
def test_an_error_of_each_kind_is_mended_in_one_round(draft):
    said = [1, 2, 3, 4, 5]
    (read,) = refined(Said(said), [draft], 1)
    assert read.text == said
    torch.testing.assert_close(read.log_probs, Said(said).read(0, said).log_probs)


def test_what_nobody_doubts_is_read_once():
    reader = Said([1, 2, 3], [])
    read = refined(reader, [[1, 2, 3], []], 5)
    assert [r.text for r in read] == [[1, 2, 3], []]
    assert reader.rows == 2


@settings(max_examples=100, deadline=None)
@given(words_st, words_st, st.integers(0, 4))
def test_it_never_ends_with_a_less_likely_text(said, draft, rounds):
    reader = Said(said)
    (read,) = refined(reader, [draft], rounds)
    own = reader.read(0, read.text)
    torch.testing.assert_close(read.log_probs, own.log_probs)
    assert rounds or read.text == draft
    assert read.value == own.value >= reader.read(0, draft).value - 1e-6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(words_st, words_st), min_size=1, max_size=4))
def test_a_row_does_not_depend_on_its_batch(pairs):
    said, drafts = zip(*pairs, strict=True)
    together = refined(Said(*said), drafts, 3)
    for row, draft in enumerate(drafts):
        (alone,) = refined(Said(said[row]), [draft], 3)
        assert alone.text == together[row].text
