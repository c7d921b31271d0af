"""N-best lists of a model with a scorer."""

from __future__ import annotations

import torch
from oracle_scorer import EOS, OracleScorer
from tiny_models import check_batches, recognize, scorer_of

from espnet_llada.extensions.whisper_scorer.scorer import continued, transcribed
from espnet_llada.inference.nbest import branches


def test_a_branch_leaves_where_the_scorer_disagrees_and_goes_on_alone():
    said = [1, 2, 3, 4]
    scorer = OracleScorer(said, [5, 6], [7])
    wrong = [[1, 9, 3, 4], [5], [7, 8]]
    one = branches(scorer, wrong, 1)
    assert one == [[said], [[5, 6]], [[7]]]  # replaced, inserted, ended
    several = branches(scorer, wrong, 6)
    for text, best, own in zip(wrong, one, several, strict=True):
        assert len(own) == min(6, 2 * len(text) + 2) and best[0] in own
        assert text not in own and all(EOS not in other for other in own)
    assert branches(scorer, [[], [], []], 1) == [[said], [[5, 6]], [[7]]]
    assert [len(own) for own in branches(scorer, wrong, 1000)] == [10, 4, 6]


@torch.no_grad()
def test_texts_are_continued_as_the_scorer_alone_has_them(model, speech):
    scorer = scorer_of(model, speech[1])
    (whole,), (sure,) = transcribed(scorer, 1, 6)
    texts, values = continued(scorer, [(0, whole[:2]), (0, whole[:4])], 6)
    assert texts == [whole] * 2
    assert torch.allclose(torch.tensor(values[0]), torch.tensor(sure[2:]), atol=1e-4)
    assert continued(scorer, [], 6) == ([], [])


def test_lists_are_full_distinct_and_ranked(model, speech, texts):
    for given, options in ((None, {}), (texts, {"strategy": "deliberation_random"})):
        plain = recognize(model, speech, given, **options)
        found = recognize(model, speech, given, nbest=4, **options)
        for own, best in zip(found, plain, strict=True):
            assert own.text == best.text and own.passes == best.passes
            assert len(own.alternatives) == 3
            every = [own.text, *(h.text for h in own.alternatives)]
            assert len({*every}) == 4
            scores = [h.score for h in own.alternatives]
            assert scores == sorted(scores, reverse=True)
        check_batches(model, speech, given, {"nbest": 4, **options})
