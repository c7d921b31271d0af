"""A canvas that LM and scorer fill together; the scorer knows what is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_scorer import EOS, VOCAB, OracleScorer
from tiny_models import recognize, scorer_of

from espnet_llada.core.canvas import transcript_canvas
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.sampler import sample
from espnet_llada.extensions.confidence import least_sure
from espnet_llada.extensions.joint_decoding import JointScorer
from espnet_llada.extensions.whisper_scorer.scorer import transcribed
from espnet_llada.types import SpecialTokens

MASK = 11
SPECIAL = SpecialTokens(MASK, EOS)
FILL, GROW = False, True
"""Whether the canvas has placeholders."""

words_st = st.lists(st.integers(0, 9), max_size=6)


def wrong(tokens, wanted):
    """An LM that is rather sure of 9, whatever the canvas."""
    logits = torch.zeros(int(wanted.sum()), VOCAB)
    logits[:, 9] = 3.0
    return logits


def filled(gaps, said, texts, doubts, weight=20.0, lm=wrong):
    """Canvases over texts, of which the doubted tokens are masked."""
    sure = [[-9.0 if d else 0.0 for d in row] for row in doubts]
    canvas = replace(transcript_canvas(texts, SPECIAL, 1, confidence=sure), gaps=gaps)
    joint = JointScorer(OracleScorer(*said), weight, SPECIAL, canvas.tokens, gaps)
    options = SamplerOptions(steps=20, threshold=0.9 if gaps else 0.0)

    def plan(logits_fn, canvas, random):
        return least_sure(canvas, options, SPECIAL, 0.0, 0.5)

    result = sample(lm, canvas, options, SPECIAL, process=joint, plan=plan)
    rows = [[t for t in row if t != EOS] for row in result.tokens.tolist()]
    return rows, result


@pytest.mark.parametrize(
    ("gaps", "text", "doubts"),
    [
        (FILL, [1, 2, 8, 4], [0, 0, 1, 0]),
        (FILL, [8, 8, 8, 8], [1, 1, 1, 1]),
        (FILL, [1, 2, 3], [0, 0, 1]),  # the tail takes what lacks
        (GROW, [1, EOS, 3, 4], [0, 1, 1, 0]),  # a placeholder takes a word
        (GROW, [1, 2, 7, 3, 4], [0, 0, 1, 0, 0]),  # one too many
    ],
)
def test_the_scorer_decides_the_first_masked_position(gaps, text, doubts):
    rows, result = filled(gaps, [[1, 2, 3, 4]], [text], [doubts])
    assert rows == [[1, 2, 3, 4]]
    assert result.passes.item() <= sum(doubts) + 1


def test_without_weight_it_is_the_lm_alone_left_to_right():
    rows, _ = filled(FILL, [[1, 2]], [[1, 8]], [[0, 1]], weight=1e-9)
    assert rows == [[1, 9, 9]]


def test_the_token_that_stood_there_is_among_those_that_are_tried():
    """Neither the LM nor the scorer would have named it."""

    def lm(tokens, wanted):
        logits = torch.full((int(wanted.sum()), VOCAB), -5.0)
        logits[:, :5] = 5.0
        logits[:, 8] = 0.0  # the sixth
        return logits

    canvas = torch.tensor([[8, EOS]])
    joint = JointScorer(OracleScorer([8]), 1.0, SPECIAL, canvas, False)
    masked = torch.tensor([[True, False]])
    tokens = canvas.masked_fill(masked, MASK)
    log_probs = lm(tokens, masked).log_softmax(dim=-1)
    found, first = joint(tokens, masked, log_probs)
    assert first.tolist() == masked.tolist()
    assert torch.isfinite(found[0, 8])
    assert found.exp().sum() == pytest.approx(1.0, abs=1e-5)


def test_where_both_name_the_same_token_nothing_is_scored(monkeypatch):
    canvas = torch.tensor([[8, 8, 3, EOS], [1, 8, 3, EOS]])
    masked = torch.tensor([[True, True, False, False], [False, True, False, False]])
    tokens = canvas.masked_fill(masked, MASK)
    given = torch.zeros(3, VOCAB)
    given[0, 1] = given[1, 7] = given[2, 9] = 2.0  # of the first row, of the second
    joint = JointScorer(
        OracleScorer([1, 2, 3], [1, 2, 3]), 20.0, SPECIAL, canvas, False
    )
    asked = []
    values = joint.scorer.values
    monkeypatch.setattr(
        joint.scorer, "values", lambda r, k, f: asked.extend(f) or values(r, k, f)
    )
    found, first = joint(tokens, masked, given.log_softmax(dim=-1))
    assert first.nonzero().tolist() == [[0, 0], [1, 1]]
    assert found.argmax(dim=1).tolist() == [1, 7, 2]
    assert torch.equal(found[:2], given[:2].log_softmax(dim=-1))
    assert {row[0] for row in asked} == {9, 2, 8, EOS}, "the second row's alone"


def test_the_other_positions_are_the_lms():
    canvas = torch.tensor([[8, 8, 3, EOS], [1, 8, 8, 8]])
    masked = torch.tensor([[True, True, False, True], [False, True, False, True]])
    tokens = canvas.masked_fill(masked, MASK)
    given = torch.randn(5, VOCAB)
    given[:, 9] = 5.0  # the scorer names 1 and 2
    given = given.log_softmax(dim=-1)
    joint = JointScorer(OracleScorer([1, 2, 3], [1, 2, 3]), 1.0, SPECIAL, canvas, False)
    found, first = joint(tokens, masked, given.clone())
    assert first.nonzero().tolist() == [[0, 0], [1, 1]]
    changed = (found != given).any(dim=1)
    assert changed.tolist() == [True, False, False, True, False]
    none = torch.zeros_like(masked)
    found, first = joint(canvas, none, given[:0])
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
def test_a_row_does_not_depend_on_its_batch(cases, gaps):
    said, pairs = zip(*cases, strict=True)
    texts, doubts = zip(*pairs, strict=True)
    together, result = filled(gaps, said, texts, doubts, weight=1.0)
    for row, case in enumerate(zip(said, texts, doubts, strict=True)):
        (alone,), one = filled(gaps, *([part] for part in case), weight=1.0)
        assert alone == together[row]
        assert one.passes[0] == result.passes[row]
        assert MASK not in alone


@pytest.mark.parametrize("beam_size", [1, 2])
def test_a_joint_search_writes_what_the_scorer_expects_along_its_own_text(
    llama, speech, beam_size
):
    """With all the weight on the scorer its most probable tokens, one by one."""
    options = {"canvas_length": 6, "beam_size": beam_size}
    alone = recognize(llama, speech, **options)
    options["joint"] = {"weight": 1e4}
    found = recognize(llama, speech, **options)
    eos = llama.decoder.special.eos
    for i, waveform in enumerate(speech):
        (own,) = recognize(llama, [waveform], **options)
        assert own.token_ids == found[i].token_ids, "whatever the batch"
        if beam_size > 1:
            continue
        with torch.no_grad():
            scorer, text = scorer_of(llama, waveform), []
            while len(text) < 6:
                (scored,) = scorer([0], [text])
                if (token := int(scored.log_probs[-1].argmax())) == eos:
                    break
                text.append(token)
        assert list(found[i].token_ids) == text
    assert [h.token_ids for h in alone] != [h.token_ids for h in found]


@pytest.mark.parametrize("how", ["diffusion", "mask_ctc", "semi_ar"])
def test_masked_diffusion_writes_jointly_what_the_scorer_expects(model, speech, how):
    """With all the weight on the scorer; rows do not depend on one another."""
    options = {"steps": 4, "canvas_length": 6}
    own = {"mask_ctc": {"mask_ratio": 1.0}} if how == "mask_ctc" else {"strategy": how}
    alone = recognize(model, speech, **options, **own)
    options |= {"joint": {"weight": 1e4}, **own}
    together = recognize(model, speech, **options)
    assert [h.token_ids for h in alone] != [h.token_ids for h in together]
    for i, waveform in enumerate(speech):
        (one,) = recognize(model, [waveform], **options)
        assert one.token_ids == together[i].token_ids
        assert one.passes == together[i].passes
        with torch.no_grad():
            (first,), _ = transcribed(scorer_of(model, waveform), 1, 1)
        assert list(one.token_ids[:1]) == first


def test_without_weight_nothing_is_scored(model, speech):
    options = {"steps": 2, "canvas_length": 6}
    alone = recognize(model, speech, **options)
    assert recognize(model, speech, **options, joint={"weight": 0.0}) == alone
