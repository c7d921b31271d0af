"""Several canvases of one utterance: which are filled, and what is chosen."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tiny_models import recognize

from espnet_llada.extensions.canvases import (
    Canvases,
    canvas_line,
    check,
    expected_errors,
    posteriors,
    variants,
)
from espnet_llada.inference.options import make_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.networks.tokenizer import LMTokenizer
from espnet_llada.types import Hypothesis, ScoredText, UserError

FIRST = [["a", "b", "c"], ["a", "x", "c"], ["a", "b"], ["a", "b", "c"]]


def spoken(*texts: str) -> list[Hypothesis]:
    return [Hypothesis(text, passes=2) for text in texts]


def several(texts, tokenizer=None, **own):
    """Canvases whose k-th recogniser says ``texts[k - 1][utt_id]``, and its calls."""
    options, calls = make_options({"canvases": {"number": len(texts) + 1, **own}}), []
    each = iter(texts)

    def make(_):
        said = next(each)

        def recognise(waveforms, utt_ids, *first_passes):
            calls.append((list(utt_ids), *first_passes))
            return spoken(*(said[utt] for utt in utt_ids))

        return recognise

    return Canvases(options, make, tokenizer), calls


def test_expected_errors_are_those_against_every_weighted_text():
    found = [expected_errors(text, FIRST, [0.25] * 4) for text in FIRST]
    assert found == [0.5, 1.0, 1.0, 0.5]
    assert expected_errors(FIRST[0], FIRST[:2], [0.1, 0.9]) == pytest.approx(0.9)
    assert expected_errors(["a"], FIRST[:2], [0.1, 0.9]) == pytest.approx(2.0)
    assert posteriors([-3.0, -900.0], 0.0) == [0.5, 0.5]
    assert posteriors([-2.0, -1.0], 1.0)[1] == pytest.approx(0.7311, abs=1e-4)
    assert posteriors([-1e6, 0.0], 1.0) == [0.0, 1.0]


def test_texts_that_agree_get_no_further_canvas_and_the_others_a_vote():
    first = {"same": "one two", "odd": "one two"}
    other = {"same": "one two", "odd": "one too"}
    run, calls = several([other, other, first])
    found = run(spoken(*first.values()), [None] * 2, list(first), None)
    assert [utts for utts, *_ in calls] == [["same", "odd"], ["odd"], ["odd"]]
    assert [h.text for h in found] == ["one two", "one two"], "a draw: the first"
    assert [h.passes for h in found] == [4, 8]
    assert [len(h.canvases) for h in found] == [2, 4]
    run, _ = several([other] * 3)
    found = run(spoken(*first.values()), [None] * 2, list(first), None)
    assert [h.text for h in found] == ["one two", "one too"]
    assert [c.risk for c in found[1].canvases] == [0.75, 0.25, 0.25, 0.25]


def test_words_may_be_voted_on(tiny_lm):
    """The result may be the text of no canvas."""
    tokenizer = LMTokenizer(tiny_lm)
    first = {"same": "the dog", "odd": "the dog ran"}
    others = [{**first, "odd": "a fox ran"}, {**first, "odd": "the fox run"}]
    run, calls = several(others, tokenizer, combination="rover")
    found = run(spoken(*first.values()), [None] * 2, list(first), None)
    assert [utts for utts, *_ in calls] == [["same", "odd"], ["odd"]]
    assert [h.text for h in found] == ["the dog", "the fox ran"]
    assert [h.passes for h in found] == [4, 6]
    assert [c.text for c in found[1].canvases] == [
        own["odd"] for own in (first, *others)
    ]
    assert [found[1].risk, found[1].canvases[0].risk] == pytest.approx([1, 4 / 3])
    *canvases, result = json.loads(canvas_line(found[1]))
    assert [c["chosen"] for c in canvases] == [False] * 3
    assert (result["canvas"], result["text"]) == (None, "the fox ran")
    assert result["chosen"] and result["passes"] == 6
    run, _ = several(others, tokenizer, combination="rover", scale=1.0)
    sure = [replace(h, score=9.0) for h in spoken(*first.values())]
    assert run(sure, [None] * 2, list(first), None)[1].text == "the dog ran"


def test_each_canvas_may_start_from_another_text_of_the_list():
    options = {"strategy": "deliberation_random", "canvases": {"first_passes": True}}
    options["canvases"] |= {"number": 3, "scale": 1.0}
    calls = []

    def make(one):
        assert one.sampler.temperature == 0.0

        def recognise(waveforms, utt_ids, texts):
            calls.append((utt_ids, texts))
            return spoken(*texts)

        return recognise

    run = Canvases(make_options(options), make, None)
    lists = [
        tuple(ScoredText(text, score) for text, score in own)
        for own in ([("a b", -1.0), ("a c", -1.0), ("a c", -1.2)], [("d", 0.0)])
    ]
    found = run(spoken("a b", "d"), [None] * 2, ["u", "v"], lists)
    assert calls == [(["u"], ["a c"]), (["u"], ["a c"])], "v has one text alone"
    assert [h.text for h in found] == ["a c", "d"]
    lists[0] = tuple(replace(t, score=9.0 * (t.text == "a b")) for t in lists[0])
    found = run(spoken("a b", "d"), [None] * 2, ["u", "v"], lists)
    assert found[0].text == "a b", "which the first pass is sure of"


def test_canvases_differ_in_seed_temperature_and_length():
    given = {"canvas_length": 10, "canvas_size": {"positions_per_vector": 1.0}}
    given |= {"canvases": {"number": 3, "growth": 0.5, "temperature": 0.7}, "seed": 5}
    found = list(variants(make_options(given)))
    assert [one.sampler.seed for one in found] == [6, 7]
    assert [one.sampler.temperature for one in found] == [0.7, 0.7]
    assert [one.sampler.canvas_length for one in found] == [15, 20]
    sizes = [one.extensions["canvas_size"].positions_per_vector for one in found]
    assert sizes == [1.5, 2.0]
    assert not any("canvases" in one.extensions for one in found)
    given |= {"canvas_length": 8192, "canvas_size": {"tokens_per_second": 900.0}}
    *_, longest = variants(make_options(given))
    assert longest.sampler.canvas_length == 8192
    assert longest.extensions["canvas_size"].tokens_per_second == 1000.0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"canvases": {"temperature": 0.0}}, "one text"),
        ({"canvases": {"first_passes": True}}, "deliberation"),
        ({"canvases": {"alpha": 0.5}}, "alpha: is for combination: rover"),
        ({"canvases": {"null_confidence": 0.5}}, "is for combination: rover"),
        (
            {"strategy": "deliberation_random", "canvases": {"growth": 0.1}},
            "as long as the transcript",
        ),
    ],
)
def test_canvases_that_cannot_differ_are_refused(model, options, why):
    with pytest.raises(UserError, match=why):
        check(make_options(options), model.decoder)
    with pytest.raises(UserError, match="release"):
        make_options({"profile": "release", "canvases": True})


def test_an_autoregressive_model_has_no_canvas(llama):
    with pytest.raises(UserError, match="autoregressive"):
        Transcriber(llama, make_options({"canvases": True}))


def test_the_line_says_what_each_canvas_has_said():
    canvases = (Hypothesis("a b", ("a", "b"), (1, 2), -0.5, 3, (0.9, 0.4), risk=1.0),)
    canvases += (Hypothesis("a", ("a",), (1,), -0.1, 2, (0.9,), risk=0.5),)
    both = json.loads(canvas_line(Hypothesis("a", passes=5, canvases=canvases)))
    assert [c["chosen"] for c in both] == [False, True]
    one = {"canvas": 0, "text": "a b", "log_prob": -0.5, "tokens": ["a", "b"]}
    one |= {"confidence": [0.9, 0.4], "passes": 3, "risk": 1.0, "chosen": False}
    assert both[0] == one


@pytest.mark.parametrize("how", [{}, {"combination": "rover", "alpha": 0.5}], ids=str)
def test_a_model_fills_them_as_if_each_utterance_were_alone(model, speech, how):
    options = {"steps": 3, "canvas_length": 8, "canvases": {"number": 3, **how}}
    together = recognize(model, speech, **options)
    plain = recognize(model, speech, steps=3, canvas_length=8)
    for row, (h, first) in enumerate(zip(together, plain, strict=True)):
        assert h.canvases[0].text == first.text
        assert how or h.text in {c.text for c in h.canvases}
        assert len(h.tokens) == len(h.confidence) == len(h.token_ids)
        assert h.passes == sum(c.passes for c in h.canvases)
        alone = recognize(model, speech[row : row + 1], ids=[f"u{row}"], **options)
        assert [c.text for c in alone[0].canvases] == [c.text for c in h.canvases]
        assert alone[0].text == h.text
    assert any(len({c.text for c in h.canvases}) > 1 for h in together)
