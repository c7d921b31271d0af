"""From waveforms to hypotheses with a tiny random model; noise is a fine transcript."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from espnet_llada.build import build_model
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.recognizer import Recognizer, seed_of
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
    config = copy.deepcopy(tiny_config)
    config["decoder_conf"]["ctc"] = {"weight": 0.1}
    return build_model(config)


@pytest.fixture(scope="module")
def llama(tiny_config) -> WhisperLLM:
    torch.manual_seed(0)
    config = {**copy.deepcopy(tiny_config), "decoder": "llama"}
    return build_model(config)


STRATEGIES = [
    SamplerOptions(steps=4, canvas_length=12),
    SamplerOptions(strategy="semi_ar", steps=6, num_blocks=3, canvas_length=12),
    SamplerOptions(steps=3, tokens_per_second=9.0),
    SamplerOptions(steps=3, positions_per_vector=1.5, threshold=0.02),
    SamplerOptions(strategy="mask_ctc", steps=3),
    SamplerOptions(strategy="deliberation_random", steps=3, mask_ratio=0.6),
    SamplerOptions(strategy="deliberation_low_confidence", steps=3),
    SamplerOptions(strategy="deliberation_semi_ar", steps=4, num_blocks=2),
]


@pytest.mark.parametrize("options", STRATEGIES, ids=lambda o: o.strategy)
def test_a_hypothesis_does_not_depend_on_its_batch_or_order(llada, options):
    run = Recognizer(llada, options)
    given = TEXTS if options.deliberates else None
    together = run(WAVEFORMS, IDS, given)
    for i in (2, 0, 1):
        alone = run([WAVEFORMS[i]], [IDS[i]], given and [given[i]])[0]
        assert alone.text == together[i].text
        assert alone.token_ids == together[i].token_ids
        assert alone.passes == together[i].passes <= options.steps
        assert alone.score == pytest.approx(together[i].score, abs=1e-3)


def test_llama_is_greedy_and_its_cache_changes_nothing(llama):
    run = Recognizer(llama, SamplerOptions(canvas_length=10))
    for waveform, got in zip(WAVEFORMS, run(WAVEFORMS, IDS), strict=True):
        speech = torch.from_numpy(waveform)[None]
        with torch.no_grad():
            audio = llama.encode(speech, torch.tensor([len(waveform)]))
            prefix = llama.decoder.prefix(*audio)
            ids: list[int] = []
            while len(ids) < 10:
                text = torch.tensor([ids], dtype=torch.long)
                logits = llama.decoder.next_token_logits(
                    prefix, text, torch.tensor([len(ids)])
                )
                ids.append(int(logits[0, -1].argmax()))
                if ids[-1] == llama.decoder.special.eos:
                    break
        assert got.passes == len(ids)
        assert list(got.token_ids) == [i for i in ids if i != 0]


def test_audio_changes_what_is_recognised_and_plain_text_does_not_hear_it(llada):
    options = SamplerOptions(strategy="deliberation_semi_ar", steps=4, num_blocks=2)
    hears = Recognizer(llada, options)
    deaf = Recognizer(llada, options, use_audio=False)
    a, b = (hears([w], ["x"], [TEXTS[0]])[0].score for w in WAVEFORMS[:2])
    assert a != b
    a, b = (deaf([w], ["x"], [TEXTS[0]])[0].score for w in WAVEFORMS[:2])
    assert a == b


def test_long_audio_without_a_ctc_is_deliberated_as_a_whole(llada):
    long = RNG.normal(0, 0.1, 16_000 * 65).astype(np.float32)
    options = SamplerOptions(steps=2, canvas_length=8)
    hypothesis = Recognizer(llada, options)([long], ["long"])[0]
    assert hypothesis.passes == 6  # three pieces, two passes each
    options = SamplerOptions(strategy="deliberation_random", mask_ratio=0.5, steps=2)
    deliberated = Recognizer(llada, options)([long], ["long"], [TEXTS[0]])[0]
    assert deliberated.passes == 2


def test_nothing_masked_returns_the_transcript_without_a_pass(llada):
    options = SamplerOptions(strategy="deliberation_random", mask_ratio=0.0)
    got = Recognizer(llada, options)(WAVEFORMS, IDS, TEXTS)
    assert [h.text for h in got] == TEXTS
    assert [h.passes for h in got] == [0, 0, 0]


def test_an_empty_first_pass_comes_back_unchanged(llada):
    options = SamplerOptions(strategy="deliberation_random", tail=2, mask_ratio=1.0)
    got = Recognizer(llada, options)(WAVEFORMS[:2], IDS[:2], ["", TEXTS[1]])
    assert (got[0].text, got[0].passes) == ("", 0)
    assert got[1].passes > 0


def test_a_transcript_can_grow_into_its_tail(llada):
    text, *_ = TEXTS
    length = len(llada.decoder.encode_texts([text])[0])
    for tail in (0, 3):
        options = SamplerOptions(
            strategy="deliberation_random", tail=tail, mask_ratio=1.0
        )
        got = Recognizer(llada, options)(WAVEFORMS[:1], IDS[:1], [text])[0]
        assert got.passes <= length + tail
        assert len(got.token_ids) <= length + tail
        if tail:  # this random model hears no end of the sentence
            assert len(got.token_ids) > length


def test_impossible_requests_are_refused(llada, llama):
    deliberation = SamplerOptions(strategy="deliberation_random")
    for options in (deliberation, SamplerOptions(strategy="semi_ar")):
        with pytest.raises(UserError, match="autoregressive"):
            Recognizer(llama, options)
    with pytest.raises(UserError, match="without audio"):
        Recognizer(llada, SamplerOptions(), use_audio=False)
    with pytest.raises(UserError, match="needs first-pass"):
        Recognizer(llada, deliberation)(WAVEFORMS[:1], IDS[:1])
    with pytest.raises(UserError, match="title"):
        Recognizer(llada, SamplerOptions(), output_case="title")


def test_seeds_follow_the_utterance():
    assert seed_of("a", 0) == seed_of("a", 0)
    assert len({seed_of("a", 0), seed_of("b", 0), seed_of("a", 1)}) == 3


def test_mask_ctc_needs_a_ctc(tiny_config):
    with pytest.raises(UserError, match="no CTC to make a draft"):
        Recognizer(
            build_model(tiny_config), SamplerOptions(strategy="mask_ctc")
        )
