"""The scorer of a batch: likelihoods of texts, and what it transcribes by itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_scorer import OracleScorer
from tiny_models import encoded
from tiny_scorer import END, WORDS, frames

from espnet_llada.extensions.whisper_scorer.scorer import (
    NextToken,
    Scored,
    Scorer,
    transcribed,
)

texts_st = st.lists(st.integers(4, 9), max_size=5)


@pytest.fixture
def scorer(network, table) -> Scorer:
    """Three utterances."""
    return Scorer(network, frames(9, 4, 6), table[WORDS], END)


def alone(scorer: Scorer, row: int, text: list[int]) -> Scored:
    """Scored in the way that trainings take."""
    sizes = (9, 4, 6)
    audio = frames(*sizes)[row : row + 1, : sizes[row]]
    log_probs, _ = scorer.network(audio, [text], scorer.words, scorer.eos)
    return scorer._result(row, text, log_probs[0], torch.zeros(0))


@torch.no_grad()
def test_texts_of_one_utterance_share_its_frames(scorer):
    rows, texts = [2, 0, 2, 1, 0], [[5, 40], [7], [], [33, 5, 8], [12, 13, 14]]
    for found, row, text in zip(scorer(rows, texts), rows, texts, strict=True):
        expected = alone(scorer, row, text)
        assert (found.row, found.text) == (row, text)
        torch.testing.assert_close(found.log_probs, expected.log_probs)
        assert found.own == pytest.approx(expected.own, abs=1e-5)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.integers(0, 2), texts_st, texts_st), min_size=1, max_size=4)
)
@torch.no_grad()
def test_what_texts_begin_with_is_not_computed_again(scorer, triples):
    rows, texts, others = zip(*triples, strict=True)
    before = scorer(rows, texts)
    for found, row, text in zip(
        scorer.again(before, others), rows, others, strict=True
    ):
        expected = alone(scorer, row, text)
        assert (found.row, found.text) == (row, text)
        torch.testing.assert_close(found.log_probs, expected.log_probs)
        assert found.value == pytest.approx(expected.value, abs=1e-4)
        whole = scorer([row], [text])[0]
        torch.testing.assert_close(found.past, whole.past)
    kept = [len(text) // 2 for text in texts]
    behind, _ = scorer.behind(before, kept, others)
    for log_probs, row, n, text, other in zip(
        behind, rows, kept, texts, others, strict=True
    ):
        expected = alone(scorer, row, [*text[:n], *other]).log_probs[n + 1 :]
        torch.testing.assert_close(log_probs, expected)


@torch.no_grad()
def test_the_likelihood_is_that_of_each_token_and_the_end(scorer):
    texts = [(1, [5, 40]), (0, [7]), (1, [5, 41, 9]), (1, [])]
    for found, (row, text) in zip(scorer.likelihoods(texts), texts, strict=True):
        log_probs = alone(scorer, row, text).log_probs
        own = log_probs[range(len(text) + 1), [*text, END]].sum()
        assert found == pytest.approx(float(own), abs=1e-4)
    assert scorer.likelihoods([]) == []


@torch.no_grad()
def test_many_texts_are_tried_a_few_at_a_time(scorer, monkeypatch):
    texts = [(n % 2, [n, *range(n)]) for n in range(1, 9)]
    expected = scorer.likelihoods(texts)
    sizes, along = [], scorer._along

    def counted(rows, texts, pasts=None):
        sizes.append(sum(map(len, texts)))
        return along(rows, texts, pasts)

    monkeypatch.setattr(scorer, "_along", counted)
    monkeypatch.setattr("espnet_llada.extensions.whisper_scorer.scorer._AT_ONCE", 12)
    assert scorer.likelihoods(texts) == pytest.approx(expected, abs=1e-4)
    assert len(sizes) > 3 and max(sizes) <= 12


@torch.no_grad()
def test_a_search_is_told_token_by_token(scorer):
    following = NextToken(scorer, 0.5)
    texts = [[], []]
    for tokens in ([], [5, 6], [7, 8], [9, 9]):
        texts = [[*text, *tokens[i : i + 1]] for i, text in enumerate(texts)]
        expected = [alone(scorer, row, text) for row, text in enumerate(texts)]
        values = torch.stack([0.5 * s.log_probs[-1] for s in expected])
        torch.testing.assert_close(following([0, 1], texts), values)
    # One of the hypotheses goes on twice, the other one is given up.
    values = following([1, 1], [[*texts[1], 3], [*texts[1], 4]])
    expected = [alone(scorer, 1, [*texts[1], token]) for token in (3, 4)]
    expected = torch.stack([0.5 * s.log_probs[-1] for s in expected])
    torch.testing.assert_close(values, expected)


@torch.no_grad()
def test_texts_beyond_whispers_reach_are_scored_as_far_as_that(scorer):
    longest = scorer.network.longest
    long = [5] * (longest + 3)
    (whole,) = scorer([0], [long])
    assert whole.text == long and len(whole.log_probs) == longest + 1
    (short,) = scorer([0], [long[: longest - 1]])
    (found,) = scorer.again([short], [long])
    torch.testing.assert_close(found.log_probs, whole.log_probs)
    (found,) = scorer.again([whole], [[*long, 7]])
    torch.testing.assert_close(found.log_probs, whole.log_probs)
    following = NextToken(scorer, 1.0)
    for size in range(len(long)):
        values = following([0], [long[:size]])
    torch.testing.assert_close(values[0], whole.log_probs[-1])


@torch.no_grad()
def test_a_text_is_as_likely_as_its_tokens_and_the_end(model, speech, texts):
    ids = model.decoder.encode_texts(texts[:1])
    own = model.decoder.prefix(*encoded(model, speech[0]), ids)
    (whole,) = own.scorer([0], ids)
    end = whole.log_probs[-1, model.decoder.special.eos].item()
    assert whole.value == pytest.approx(sum(own.draft.log_probs[0]) + end, abs=1e-4)


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=6, unique=True), min_size=1),
    st.integers(1, 9),
)
def test_a_scorer_transcribes_what_is_said(said, longest):
    found, sure = transcribed(OracleScorer(*said), len(said), longest)
    assert [len(row) for row in sure] == [len(row) for row in found]
    assert found == [row[:longest] for row in said]
