"""From waveforms to hypotheses with a tiny random model; noise is a fine transcript."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from espnet_llada.build import build_model
from espnet_llada.core.model import WhisperLLM
from espnet_llada.inference.options import make_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.types import UserError

RNG = np.random.default_rng(1)
WAVEFORMS = [
    RNG.normal(0, 0.1, int(s * 16_000)).astype(np.float32) for s in (0.7, 2.3, 1.1)
]
IDS = ["a", "b", "c"]
TEXTS = ["the quick brown fox", "a lovely dog", "nothing is so painful"]


@pytest.fixture(scope="module")
def llada(tiny_config) -> WhisperLLM:
    torch.manual_seed(0)
    return build_model(tiny_config)


@pytest.fixture(scope="module")
def llama(tiny_config) -> WhisperLLM:
    torch.manual_seed(0)
    config = {**copy.deepcopy(tiny_config), "decoder": "llama"}
    return build_model(config)


RANDOM = "deliberation_random"
STRATEGIES = [
    {"steps": 4, "canvas_length": 12},
    {"strategy": "semi_ar", "steps": 6, "num_blocks": 3, "canvas_length": 12},
    {"steps": 3, "threshold": 0.02},
    {"strategy": RANDOM, "steps": 3, "mask_ratio": 0.6},
    {"strategy": "deliberation_low_confidence", "steps": 3},
    {"strategy": "deliberation_semi_ar", "steps": 4, "num_blocks": 2},
]


def transcriber(model: WhisperLLM, **options) -> Transcriber:
    return Transcriber(model, make_options(options))


@pytest.mark.parametrize("options", STRATEGIES, ids=lambda o: o.get("strategy"))
def test_a_hypothesis_does_not_depend_on_its_batch_or_order(llada, options):
    run = transcriber(llada, **options)
    given = TEXTS if run.options.deliberates else None
    together = run(WAVEFORMS, IDS, given)
    for i in (2, 0, 1):
        alone = run([WAVEFORMS[i]], [IDS[i]], given and [given[i]])[0]
        assert alone.text == together[i].text
        assert alone.token_ids == together[i].token_ids
        assert alone.passes == together[i].passes <= options["steps"]
        assert alone.score == pytest.approx(together[i].score, abs=1e-3)


def test_llama_is_greedy_and_its_cache_changes_nothing(llama):
    run = transcriber(llama, canvas_length=10)
    for waveform, got in zip(WAVEFORMS, run(WAVEFORMS, IDS), strict=True):
        speech = torch.from_numpy(waveform)[None]
        with torch.no_grad():
            audio = llama.encode(speech, torch.tensor([len(waveform)]))
            prefix = llama.decoder.prefix(*audio)
            ids: list[int] = []
            while len(ids) < 10:
                text = torch.tensor([ids], dtype=torch.long)
                given = prefix, text, torch.tensor([len(ids)])
                head, hidden = llama.decoder.next_token_hidden(*given)
                ids.append(int(head.all_logits(hidden)[0, -1].argmax()))
                if ids[-1] == llama.decoder.special.eos:
                    break
        assert got.passes == len(ids)
        assert list(got.token_ids) == [i for i in ids if i != 0]


def test_audio_changes_what_is_recognised_and_plain_text_does_not_hear_it(llada):
    options = {"strategy": "deliberation_semi_ar", "steps": 4, "num_blocks": 2}
    hears = transcriber(llada, **options)
    deaf = Transcriber(llada, make_options(options), use_audio=False)
    a, b = (hears([w], ["x"], [TEXTS[0]])[0].score for w in WAVEFORMS[:2])
    assert a != b
    a, b = (deaf([w], ["x"], [TEXTS[0]])[0].score for w in WAVEFORMS[:2])
    assert a == b


def test_long_audio_without_a_ctc_is_deliberated_as_a_whole(llada):
    long = RNG.normal(0, 0.1, 16_000 * 65).astype(np.float32)
    run = transcriber(llada, steps=2, canvas_length=8)
    hypothesis = run([long], ["long"])[0]
    assert hypothesis.passes == 6  # three pieces, two passes each
    run = transcriber(llada, strategy=RANDOM, mask_ratio=0.5, steps=2)
    deliberated = run([long], ["long"], [TEXTS[0]])[0]
    assert deliberated.passes == 2


def test_nothing_masked_returns_the_transcript_without_a_pass(llada):
    got = transcriber(llada, strategy=RANDOM, mask_ratio=0.0)(WAVEFORMS, IDS, TEXTS)
    assert [h.text for h in got] == TEXTS
    assert [h.passes for h in got] == [0, 0, 0]


def test_an_empty_first_pass_comes_back_unchanged(llada):
    run = transcriber(llada, strategy=RANDOM, tail=2, mask_ratio=1.0)
    got = run(WAVEFORMS[:2], IDS[:2], ["", TEXTS[1]])
    assert (got[0].text, got[0].passes) == ("", 0)
    assert got[1].passes > 0


def test_a_transcript_can_grow_into_its_tail(llada):
    text, *_ = TEXTS
    length = len(llada.decoder.encode_texts([text])[0])
    for tail in (0, 3):
        run = transcriber(llada, strategy=RANDOM, tail=tail, mask_ratio=1.0)
        got = run(WAVEFORMS[:1], IDS[:1], [text])[0]
        assert got.passes <= length + tail
        assert len(got.token_ids) <= length + tail
        if tail:  # this random model hears no end of the sentence
            assert len(got.token_ids) > length


def test_impossible_requests_are_refused(llada, llama):
    for strategy in (RANDOM, "semi_ar"):
        with pytest.raises(UserError, match="autoregressive"):
            transcriber(llama, strategy=strategy)
    with pytest.raises(UserError, match="masked diffusion"):
        transcriber(llada, beam_size=2)
    with pytest.raises(UserError, match="without audio"):
        Transcriber(llada, make_options({}), use_audio=False)
    with pytest.raises(UserError, match="needs first-pass"):
        transcriber(llada, strategy=RANDOM)(WAVEFORMS[:1], IDS[:1])
    with pytest.raises(UserError, match="takes no first-pass"):
        transcriber(llada)(WAVEFORMS[:1], IDS[:1], TEXTS[:1])
    with pytest.raises(UserError, match="title"):
        Transcriber(llada, make_options({}), output_case="title")
