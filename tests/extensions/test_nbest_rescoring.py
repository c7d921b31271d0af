"""N-best lists in the order of the LM's masked likelihood."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import encoded

from espnet_llada.core.canvas import transcript_canvas
from espnet_llada.core.recognizer import seed_of
from espnet_llada.extensions.nbest_rescoring import (
    complementary,
    masked_log_likelihoods,
    masked_means,
)
from espnet_llada.inference.options import make_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.networks.rows import RowRandom
from espnet_llada.types import ScoredText, SpecialTokens, UserError

SPECIAL = SpecialTokens(mask=11, eos=10)
KEEP = {"strategy": "deliberation_random", "mask_ratio": 0.0}


def unigram(tokens, wanted):
    """Token i has probability 2^-(i+1) wherever it is masked, EOS the rest."""
    logits = torch.full((*tokens.shape, 12), -math.inf)
    for token in range(10):
        logits[..., token] = -math.log(2) * (token + 1)
    logits[..., SPECIAL.eos] = -math.log(2) * 10
    assert (tokens[wanted] == SPECIAL.mask).all()
    return logits[wanted]


def test_pairs_of_masks_hide_every_token_once():
    canvas = transcript_canvas([[1, 2, 3, 4, 5, 6, 7], [1], []], SPECIAL, 1)
    sizes = set()
    for seed in range(40):
        both = complementary(canvas, RowRandom([seed] * 3))
        first, second = both
        assert torch.equal(first ^ second, canvas.valid)
        assert not (first & second).any()
        sizes.add(int(first[0].sum()))
        assert first[1].sum() == second[1].sum() == 1
        assert first[2].sum() == 1, "a text of one position"
    assert sizes == {1, 2, 3, 4, 5, 6, 7}


def test_the_likelihood_of_a_unigram_model_is_estimated_by_its_mean():
    """A mask's mean, times the length; alike tokens have no variance."""
    canvas = transcript_canvas([[3, 3, 3], [0, 5]], SPECIAL)
    given = unigram, canvas, SPECIAL
    found = masked_log_likelihoods(*given, 3, RowRandom([1, 2]))
    assert found[0] == pytest.approx(-3 * 4 * math.log(2), abs=1e-4)
    # Of two tokens each mask of a pair hides one.
    assert found[1] == pytest.approx(-(1 + 6) * math.log(2), abs=1e-4)
    means = masked_means(*given, torch.tensor([[1, 1, 0], [0, 0, 0]]).bool())
    assert means.tolist() == pytest.approx([-4 * math.log(2), 0.0], abs=1e-4)


def test_the_estimate_does_not_depend_on_the_batch():
    texts = [[1, 2, 3, 4, 5], [6, 7], [0, 9, 0]]
    together = transcript_canvas(texts, SPECIAL, 1)
    found = masked_log_likelihoods(unigram, together, SPECIAL, 2, RowRandom([3, 4, 5]))
    for row, text in enumerate(texts):
        own = transcript_canvas([text], SPECIAL, 1), SPECIAL, 2, RowRandom([3 + row])
        alone = masked_log_likelihoods(unigram, *own)
        assert alone[0] == pytest.approx(float(found[row]), abs=1e-4)


def lists(*rows):
    return [tuple(ScoredText(*one) for one in row) for row in rows]


def rescored(model, speech, given, use_audio=True, **own):
    options = make_options({**KEEP, "nbest_rescoring": own})
    run = Transcriber(model, options, use_audio)
    texts, ids = [row[0].text for row in given], ["u0", "u1"]
    return run(speech[: len(given)], ids[: len(given)], texts, given)


@pytest.mark.parametrize("use_audio", [True, False])
def test_the_list_is_chosen_from_by_both_scores(model, speech, use_audio):
    given = lists(
        [("the quick brown", -1.0), ("the brown", -1.1), ("fox jumps", -1.2)],
        [("a dark", -1.0)],
    )
    own = rescored(model, speech, given, use_audio, weight=0.0, pairs=2)
    assert [h.text for h in own] == ["the quick brown", "a dark"]
    assert [h.passes for h in own] == [4, 0], "one text needs no score"
    found = rescored(model, speech, given, use_audio, weight=1000.0, pairs=2)
    decoder = model.decoder
    ids = decoder.encode_texts([one.text for one in given[0]])
    prefix = decoder.prompt.alone(3)
    if use_audio:
        vectors = [v.expand(3, *v.shape[1:]) for v in encoded(model, speech[0])]
        prefix = decoder.prefix(*vectors, ids)
    canvas = transcript_canvas(ids, decoder.special, 1)
    fn = decoder.passes(decoder, prefix, canvas.lengths)
    random = RowRandom([seed_of("u0", 0)] * 3)
    with torch.no_grad():
        likely = masked_log_likelihoods(fn, canvas, decoder.special, 2, random)
    assert found[0].text == given[0][int(likely.argmax())].text


def test_of_silence_the_list_stays(model, speech):
    given = lists([("the quick", -5.0), ("fox jumps", -1.0)], [("a", 0.0)])
    silent = [0.0 * waveform for waveform in speech]
    found = rescored(model, silent, given)
    assert [(h.text, h.passes) for h in found] == [("the quick", 0), ("a", 0)]


def test_deliberation_starts_from_the_best(model, speech):
    given = lists([("the quick", -5.0), ("fox jumps", -1.0)])
    options = {"strategy": "deliberation_random", "mask_ratio": 0.5, "steps": 2}
    options["nbest_rescoring"] = {"weight": 0.0, "pairs": 1}
    run = Transcriber(model, make_options(options))
    plain = Transcriber(
        model,
        make_options({k: options[k] for k in ("strategy", "mask_ratio", "steps")}),
    )
    (one,) = run(speech[:1], ["u"], ["the quick"], given)
    (other,) = plain(speech[:1], ["u"], ["fox jumps"])
    assert one.text == other.text and one.passes == other.passes + 2


def test_without_lists_or_deliberation_it_is_refused(model, llama, speech):
    run = Transcriber(model, make_options({**KEEP, "nbest_rescoring": True}))
    with pytest.raises(UserError, match="2best_recog"):
        run(speech[:1], ["u"], ["the quick"])
    with pytest.raises(UserError, match="is for deliberation"):
        Transcriber(model, make_options({"nbest_rescoring": True}))
