"""A canvas that LM and reader fill together; the reader knows what is said."""

from __future__ import annotations

import pytest
import torch
from espnet_llada.extensions.whisper_scorer.reader import spelled
from hypothesis import given, settings
from hypothesis import strategies as st
from said_reader import EOS, VOCAB, Said

from espnet_llada.core.canvas import transcript_canvas
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.sampler import sample
from espnet_llada.extensions.joint_decoding import Leading
from espnet_llada.types import SpecialTokens

MASK = 11
SPECIAL = SpecialTokens(MASK, EOS)
FILL = SamplerOptions(strategy="mask_ctc", mask_below=0.5, steps=20)
GROW = SamplerOptions(
    strategy="mask_ctc", mask_below=0.5, steps=20, slots_below=0.5, threshold=0.9
)
words_st = st.lists(st.integers(0, 9), max_size=6)


def wrong(tokens, wanted):
    """An LM that is rather sure of 9, whatever the canvas."""
    logits = torch.zeros(int(wanted.sum()), VOCAB)
    logits[:, 9] = 3.0
    return logits


def filled(options, said, texts, doubts, weight=20.0, lm=wrong):
    """Canvases over texts, of which the doubted tokens are masked."""
    sure = [[-9.0 if d else 0.0 for d in row] for row in doubts]
    canvas = transcript_canvas(texts, SPECIAL, 1, confidence=sure)
    resizes = options.resizes
    beside = Leading(Said(*said), weight, SPECIAL, canvas.tokens, resizes)
    result = sample(lm, canvas, options, SPECIAL, beside=beside)
    rows = [[t for t in row if t != EOS] for row in result.tokens.tolist()]
    return rows, result


@pytest.mark.parametrize(
    ("options", "text", "doubts"),
    [
        (FILL, [1, 2, 8, 4], [0, 0, 1, 0]),
        (FILL, [8, 8, 8, 8], [1, 1, 1, 1]),
        (FILL, [1, 2, 3], [0, 0, 1]),  # the tail takes what lacks
        (GROW, [1, EOS, 3, 4], [0, 1, 1, 0]),  # a slot takes a word
        (GROW, [1, 2, 7, 3, 4], [0, 0, 1, 0, 0]),  # one too many
    ],
)
def test_the_reader_is_asked_for_the_first_masked_position(options, text, doubts):
    rows, result = filled(options, [[1, 2, 3, 4]], [text], [doubts])
    assert rows == [[1, 2, 3, 4]]
    assert result.passes.item() <= sum(doubts) + 1


def test_without_weight_it_is_the_lm_alone_left_to_right():
    rows, _ = filled(FILL, [[1, 2]], [[1, 8]], [[0, 1]], weight=1e-9)
    assert rows == [[1, 9, 9]]


def test_the_token_that_stood_there_is_among_those_that_are_tried():
    """Neither the LM nor the reader would have named it."""

    def lm(tokens, wanted):
        logits = torch.full((int(wanted.sum()), VOCAB), -5.0)
        logits[:, :5] = 5.0
        logits[:, 8] = 0.0  # the sixth
        return logits

    canvas = torch.tensor([[8, EOS]])
    leading = Leading(Said([8]), 1.0, SPECIAL, canvas, False)
    masked = torch.tensor([[True, False]])
    tokens = canvas.masked_fill(masked, MASK)
    log_probs = lm(tokens, masked).log_softmax(dim=-1)
    found, first = leading(tokens, masked, log_probs)
    assert first.tolist() == masked.tolist()
    assert torch.isfinite(found[0, 8])
    assert found.exp().sum() == pytest.approx(1.0, abs=1e-5)


def test_where_both_name_the_same_token_nothing_is_read_on(monkeypatch):
    canvas = torch.tensor([[8, 8, 3, EOS], [1, 8, 3, EOS]])
    masked = torch.tensor([[True, True, False, False], [False, True, False, False]])
    tokens = canvas.masked_fill(masked, MASK)
    given = torch.zeros(3, VOCAB)
    given[0, 1] = given[1, 7] = given[2, 9] = 2.0  # of the first row, of the second
    leading = Leading(Said([1, 2, 3], [1, 2, 3]), 20.0, SPECIAL, canvas, False)
    read = []
    values = leading.reader.values
    monkeypatch.setattr(
        leading.reader, "values", lambda r, k, f: read.extend(f) or values(r, k, f)
    )
    found, first = leading(tokens, masked, given.log_softmax(dim=-1))
    assert first.nonzero().tolist() == [[0, 0], [1, 1]]
    assert found.argmax(dim=1).tolist() == [1, 7, 2]
    assert torch.equal(found[:2], given[:2].log_softmax(dim=-1))
    assert {row[0] for row in read} == {9, 2, 8, EOS}, "the second row's, as it differs"


def test_the_other_positions_are_the_lms():
    canvas = torch.tensor([[8, 8, 3, EOS], [1, 8, 8, 8]])
    masked = torch.tensor([[True, True, False, True], [False, True, False, True]])
    tokens = canvas.masked_fill(masked, MASK)
    given = torch.randn(5, VOCAB)
    given[:, 9] = 5.0  # the reader names 1 and 2
    given = given.log_softmax(dim=-1)
    leading = Leading(Said([1, 2, 3], [1, 2, 3]), 1.0, SPECIAL, canvas, False)
    found, first = leading(tokens, masked, given.clone())
    assert first.nonzero().tolist() == [[0, 0], [1, 1]]
    changed = (found != given).any(dim=1)
    assert changed.tolist() == [True, False, False, True, False]
    none = torch.zeros_like(masked)
    found, first = leading(canvas, none, given[:0])
    assert not first.any() and not len(found)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            words_st,
            words_st.flatmap(
                lambda text: st.tuples(
                    st.just(text),
                    st.lists(st.booleans(), min_size=len(text), max_size=len(text)),
                )
            ),
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([FILL, GROW]),
)
def test_a_row_does_not_depend_on_its_batch(cases, options):
    said, pairs = zip(*cases, strict=True)
    texts, doubts = zip(*pairs, strict=True)
    together, result = filled(options, said, texts, doubts, weight=1.0)
    for row, case in enumerate(zip(said, texts, doubts, strict=True)):
        (alone,), one = filled(options, *([part] for part in case), weight=1.0)
        assert alone == together[row]
        assert one.passes[0] == result.passes[row]
        assert MASK not in alone


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=6, unique=True), min_size=1),
    st.integers(1, 9),
)
def test_a_reader_spells_what_is_said(said, longest):
    found, sure = spelled(Said(*said), len(said), longest)
    assert [len(row) for row in sure] == [len(row) for row in found]
    assert found == [row[:longest] for row in said]
