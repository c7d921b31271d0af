"""A draft that its own reader corrects; the reader here knows what is said."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_llada.adapter.numbering import spoken
from espnet_llada.adapter.reader import likelihood
from espnet_llada.adapter.refining import refined

VOCAB, EOS = 12, 10
CPU = torch.device("cpu")
words_st = st.lists(st.integers(0, 9), max_size=7)


class Reader:
    """Expects what is said next, behind each token; all else is equally unlikely."""

    def __init__(self, *said: list[int]):
        self.said, self.rows = said, 0

    def __call__(self, rows, texts, since=None):
        self.rows += len(texts)
        found = []
        for row, text in zip(rows.tolist(), texts, strict=True):
            log_probs = torch.full((len(text) + 1, VOCAB), math.log(0.1 / (VOCAB - 1)))
            target = [*self.said[row], EOS]
            for place, n in enumerate(spoken(text, target[:-1])):
                log_probs[place, target[n]] = math.log(0.9)
            found.append(log_probs)
        begins = since or [0] * len(texts)
        return [log_probs[n:] for log_probs, n in zip(found, begins, strict=True)]


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
    reader = Reader(said)
    texts, read = refined(reader, [draft], 1, EOS, CPU)
    assert texts == [said]
    torch.testing.assert_close(read, reader(torch.tensor([0]), [said]))


def test_what_nobody_doubts_is_read_once():
    reader = Reader([1, 2, 3], [])
    texts, _ = refined(reader, [[1, 2, 3], []], 5, EOS, CPU)
    assert texts == [[1, 2, 3], []]
    assert reader.rows == 2


@settings(max_examples=100, deadline=None)
@given(words_st, words_st, st.integers(0, 4))
def test_it_never_ends_with_a_less_likely_text(said, draft, rounds):
    reader = Reader(said)

    def value(text):
        return likelihood(*reader(torch.tensor([0]), [text]), text, EOS)

    (text,), read = refined(reader, [draft], rounds, EOS, CPU)
    torch.testing.assert_close(read, reader(torch.tensor([0]), [text]))
    assert rounds or text == draft
    assert value(text) >= value(draft) - 1e-6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(words_st, words_st), min_size=1, max_size=4))
def test_a_row_does_not_depend_on_its_batch(pairs):
    said, drafts = zip(*pairs, strict=True)
    together, _ = refined(Reader(*said), drafts, 3, EOS, CPU)
    for row, draft in enumerate(drafts):
        (alone,), _ = refined(Reader(said[row]), [draft], 3, EOS, CPU)
        assert alone == together[row]


def test_the_likelihood_is_that_of_each_token_and_the_end():
    log_probs = torch.randn(4, VOCAB).log_softmax(dim=-1)
    own = log_probs[0, 3] + log_probs[1, 1] + log_probs[2, EOS]
    found = likelihood(log_probs[:3], [3, 1], EOS)
    assert found == pytest.approx(float(own), abs=1e-5)
    cut = log_probs[range(4), [5, 6, 7, EOS]].sum()
    found = likelihood(log_probs, [5, 6, 7, 8, 9], EOS)
    assert found == pytest.approx(float(cut), abs=1e-5)
