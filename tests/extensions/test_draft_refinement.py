"""A draft that a scorer corrects; the scorer here knows what is said."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_scorer import EOS, OracleScorer

from espnet_llada.extensions.draft_refinement import refined
from espnet_llada.extensions.posterior_prefix.alignment import corrections

words_st = st.lists(st.integers(0, 9), max_size=7)


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
    (found,) = refined(OracleScorer(said), [draft], 1)
    assert found.text == said
    torch.testing.assert_close(
        found.log_probs, OracleScorer(said).score(0, said).log_probs
    )


def test_a_likely_text_is_scored_once():
    scorer = OracleScorer([1, 2, 3], [])
    found = refined(scorer, [[1, 2, 3], []], 5)
    assert [r.text for r in found] == [[1, 2, 3], []]
    assert scorer.rows == 2


@settings(max_examples=100, deadline=None)
@given(words_st, words_st, st.integers(0, 4))
def test_it_never_ends_with_a_less_likely_text(said, draft, rounds):
    scorer = OracleScorer(said)
    (found,) = refined(scorer, [draft], rounds)
    own = scorer.score(0, found.text)
    torch.testing.assert_close(found.log_probs, own.log_probs)
    assert rounds or found.text == draft
    assert found.value == own.value >= scorer.score(0, draft).value - 1e-6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(words_st, words_st), min_size=1, max_size=4))
def test_a_row_does_not_depend_on_its_batch(pairs):
    said, drafts = zip(*pairs, strict=True)
    together = refined(OracleScorer(*said), drafts, 3)
    for row, draft in enumerate(drafts):
        (alone,) = refined(OracleScorer(said[row]), [draft], 3)
        assert alone.text == together[row].text


def test_what_the_ctc_aligns_is_not_left_out():
    """The scorer would end after the first time; the CTC has it twice."""
    twice = [1, 2, 3, 1, 2, 3]

    def alignment(texts):
        pairs = [corrections(text, twice, EOS) for _, text in texts]
        return [-40.0 * sum(a != b for a, b in row) for row in pairs]

    scorer = OracleScorer([1, 2, 3])
    assert len(refined(scorer, [twice], 2)[0].text) < 5
    scorer.alignment = alignment
    assert refined(scorer, [twice], 2)[0].text == twice


def test_objections_count_in_full_where_text_goes():
    scorer = OracleScorer([1, 2, 3])
    scorer.alignment = lambda texts: [float(sum(text)) for _, text in texts]
    changes = [(0, [5, 5], [5, 4]), (0, [5, 5], [5]), (0, [5, 5], []), (0, [5], [9])]
    assert scorer.objections(changes) == pytest.approx([-0.3, -1.5, -10.0, 0.0])
    scorer.alignment = None
    assert scorer.objections(changes) == [0.0] * 4
