"""What has become of a text is kept where the scorer finds it likelier."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_models import SCORED, check_batches, recognize, scorer_of

from espnet_llada.extensions import change_evidence, rescoring
from espnet_llada.extensions.rescoring import MARGIN
from espnet_llada.extensions.whisper_scorer.scorer import Scorer, transcribed
from espnet_llada.inference.options import make_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.sweep.trace import trace

DOUBTFUL = {"passes": 0, "mask_threshold": 0.9}
COMBINED = {"accept_if_better": False, "combination": True}


@pytest.mark.parametrize("options", [{}, COMBINED, {"combination": True}], ids=str)
def test_a_row_does_not_depend_on_its_batch(model, speech, texts, options):
    options = {**SCORED, "confidence": DOUBTFUL, "steps": 3, "rescoring": options}
    check_batches(model, speech, texts, {**options, "joint": {}})


def test_without_either_nothing_is_rescored(model, speech, texts):
    options = {**SCORED, "confidence": DOUBTFUL, "steps": 3}
    before = recognize(model, speech, texts, **options)
    none = {"accept_if_better": False}
    assert recognize(model, speech, texts, **options, rescoring=none) == before


def distance(one: list[int], other: list[int]) -> int:
    """Tokens that differ at the least; plain edit distance."""
    row = [*range(len(other) + 1)]
    for i, a in enumerate(one, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            last, row[j] = row[j], min(last + (a != b), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def judge(monkeypatch, value) -> None:
    """Have a text be as likely as value(row of the batch, text) says."""

    def likelihoods(_, texts):
        return [float(value(*pair)) for pair in texts]

    monkeypatch.setattr(Scorer, "likelihoods", likelihoods)
    monkeypatch.setattr(Scorer, "objections", lambda _, texts: [0.0] * len(texts))


def test_a_change_that_makes_the_text_less_likely_is_undone(
    model, speech, texts, monkeypatch
):
    """A random LM spoils half of the words; the judge likes high remainders."""
    ids = model.decoder.encode_texts(texts)
    options = {"strategy": "deliberation_random", "mask_ratio": 0.5, "tail": 0}
    free = recognize(model, speech, texts, **options)

    def value(row):  # more than the margin for each
        return 2 * MARGIN * sum(token % 7 for token in row)

    judge(monkeypatch, lambda _, text: value(text))
    checked = recognize(model, speech, texts, **options, rescoring={})
    kinds = set()
    for before, spoiled, found in zip(ids, free, checked, strict=True):
        triples = zip(before, spoiled.token_ids, found.token_ids, strict=True)
        for changed, run in itertools.groupby(triples, lambda t: t[0] != t[1]):
            old, new, now = zip(*run, strict=True)
            kept = not changed or value(new) > value(old)
            kinds.add((changed, kept))
            assert now == (new if kept else old)
        assert found.passes == spoiled.passes
    assert kinds >= {(True, True), (True, False)}


@pytest.mark.parametrize("trusted", ["scorer", "first pass", "nobody"])
@pytest.mark.parametrize(
    "options", [{**SCORED, "confidence": DOUBTFUL}, {"mask_ctc": {}}], ids=str
)
def test_the_scorers_own_text_is_combined_where_it_is_likelier(
    model, speech, texts, trusted, options, monkeypatch
):
    """What the scorer transcribes itself, change by change, where it is much surer."""
    texts = None if "mask_ctc" in options else texts
    before = recognize(model, speech, texts, **options, steps=3)
    own = []
    for waveform in speech:
        with torch.no_grad():
            own += transcribed(scorer_of(model, waveform), 1, 5)[0]
    # So small a scorer never ends by itself.
    monkeypatch.setattr(
        rescoring, "transcribed", lambda scorer, rows, _: transcribed(scorer, rows, 5)
    )
    kept = [list(h.token_ids) for h in before]
    liked = {"scorer": own, "first pass": kept}.get(trusted)
    judge(
        monkeypatch,
        lambda row, text: 0.0 if liked is None else -2.1 * distance(liked[row], text),
    )
    found = recognize(model, speech, texts, **options, steps=3, rescoring=COMBINED)
    expected = kept if liked is None else liked
    assert [list(h.token_ids) for h in found] == expected
    for with_it, without in zip(found, before, strict=True):
        assert with_it.passes == without.passes
        assert len(with_it.confidence) == len(with_it.token_ids)
        if with_it.token_ids == without.token_ids:
            assert with_it.confidence == without.confidence


def test_a_text_that_the_scorer_does_not_end_has_no_say(
    model, speech, texts, monkeypatch
):
    options = {**SCORED, "confidence": DOUBTFUL, "steps": 3, "canvas_length": 1}
    before = recognize(model, speech, texts, **options)
    judge(monkeypatch, lambda row, text: -9.0 * len(text))  # the shorter the better
    found = recognize(model, speech, texts, **options, rescoring=COMBINED)
    assert [h.token_ids for h in found] == [h.token_ids for h in before]
    assert [h.confidence for h in found] == [h.confidence for h in before]


def test_a_combined_text_is_shown_at_the_end(model, speech, texts):
    options = {**SCORED, "confidence": DOUBTFUL, "steps": 3, "rescoring": COMBINED}
    run = Transcriber(model, make_options(options))
    hypothesis, frames = trace(run, speech[1], "u1", texts[1])
    words = [cell.token for cell in frames[-1].cells if cell.token and not cell.end]
    assert tuple(words) == hypothesis.tokens
    assert frames[-1].passes == hypothesis.passes


@pytest.mark.parametrize("least", [1e-9, 1.0])
def test_a_change_is_kept_if_it_probably_mends(model, speech, texts, least):
    """All of them, or none, by the least probability."""
    options = {"strategy": "deliberation_random", "mask_ratio": 0.5, "tail": 0}
    free = recognize(model, speech, texts, **options)
    probable = {"min_probability": least, "scorer": 0.01, "internal_lm": -0.01}
    found = recognize(model, speech, texts, **options, rescoring=probable)
    ids = [list(h.token_ids) for h in found]
    given = model.decoder.encode_texts(texts)
    assert ids == (given if least == 1.0 else [list(h.token_ids) for h in free])
    assert given != [list(h.token_ids) for h in free]


def test_the_scores_of_a_change(model, speech):
    scorer = scorer_of(model, speech[0])
    old, new = [5, 6, 7], [5, 8]
    (there,), (back,) = (
        change_evidence.features_of(scorer, [(0, *pair)]).tolist()
        for pair in ((old, new), (new, old))
    )
    own = scorer.likelihoods([(0, old), (0, new)])
    assert there[0] == pytest.approx(own[1] - own[0], abs=1e-3)
    assert there[:2] == pytest.approx([-value for value in back[:2]], abs=1e-3)
    assert there[2:] == pytest.approx([-value for value in back[:1:-1]], abs=1e-3)
    assert there[2] <= 0.0 <= there[3] and 0.0 in there[2:]
    # Without audio the scorer says the same whatever was recorded.
    other = change_evidence.features_of(scorer_of(model, speech[1]), [(0, old, new)])
    assert other[0, 1] == pytest.approx(there[1], abs=1e-4)
    assert other[0, 0] != pytest.approx(there[0], abs=1e-4)


def test_a_logistic_regression():
    evidence = change_evidence.Evidence(bias=-1.0, scorer=0.5, ctc_gain=2.0)
    features = torch.tensor([[2.0, 9.0, -9.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert evidence.probabilities(features).tolist() == pytest.approx(
        [0.5, 0.731], abs=1e-3
    )
