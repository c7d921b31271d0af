"""From waveforms to token ids, stage by stage, with a tiny random model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from espnet_llada.build import build_model
from espnet_llada.core.canvas import blank_canvas
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.recognizer import DecodingHook, Recognizer, Stages, seed_of
from espnet_llada.core.sampler import sample

RNG = np.random.default_rng(1)
WAVEFORMS = [
    RNG.normal(0, 0.1, int(s * 16_000)).astype(np.float32) for s in (0.7, 2.3, 1.1)
]
IDS = ["a", "b", "c"]
OPTIONS = SamplerOptions(steps=4, canvas_length=12)


@pytest.fixture(scope="module")
def llada(tiny_config):
    torch.manual_seed(0)
    return build_model(tiny_config)


def test_seeds_follow_the_utterance():
    assert seed_of("a", 0) == seed_of("a", 0)
    assert len({seed_of("a", 0), seed_of("b", 0), seed_of("a", 1)}) == 3


@torch.no_grad()
def test_decoding_is_encoding_prefix_and_sampler(llada):
    result = Recognizer(llada, OPTIONS).decode(WAVEFORMS, IDS)
    decoder = llada.decoder
    for i, waveform in enumerate(WAVEFORMS):
        speech = torch.from_numpy(waveform)[None]
        prefix = decoder.prefix(*llada.encode(speech, torch.tensor([len(waveform)])))
        canvas = blank_canvas([12], decoder.special)
        logits_fn = decoder.passes(decoder, prefix, canvas.lengths)
        own = sample(logits_fn, canvas, OPTIONS, decoder.special, [seed_of(IDS[i], 0)])
        assert own.tokens[0].tolist() == result.tokens[i].tolist()
        assert own.passes[0] == result.passes[i]


def test_each_stage_may_be_run_otherwise(llada):
    called = []

    def watched(name, function):
        return lambda *given: called.append(name) or function(*given)

    stages = Stages(
        watched("encode", llada.encode),
        watched("passes", llada.decoder.passes),
        watched("fill", sample),
    )
    plain = Recognizer(llada, OPTIONS).decode(WAVEFORMS, IDS)
    same = Recognizer(llada, OPTIONS, stages=stages).decode(WAVEFORMS, IDS)
    assert torch.equal(plain.tokens, same.tokens)
    assert called == ["encode", "passes", "fill"]


def test_what_is_longer_than_whispers_window_is_encoded_in_pieces(llada):
    long, samples = RNG.normal(0, 0.1, 16_000 * 65).astype(np.float32), []

    def encode(speech, lengths):
        samples.extend(lengths.tolist())
        return llada.encode(speech, lengths)

    run = Recognizer(llada, OPTIONS, stages=Stages(encode))
    with torch.no_grad():
        vectors, counts = run.encoded([long, WAVEFORMS[0]])
    assert len(samples) == 4 and sum(samples) == len(long) + len(WAVEFORMS[0])
    assert max(samples) <= 30 * 16_000 and counts[0] == vectors.shape[1]


def test_a_hook_may_change_canvas_and_result(llada):
    seen = []

    class Hook(DecodingHook):
        def open(self, prefix, canvas):
            seen.append(list(self.samples))
            return prefix, blank_canvas([3] * len(prefix), self.decoder.special)

        def accept(self, canvas, result):
            return replace(result, passes=result.passes + 100)

    def make(*given):
        return Hook("its options", *given)

    result = Recognizer(llada, OPTIONS, make).decode(WAVEFORMS, IDS)
    assert result.tokens.shape == (3, 3) and (result.passes > 100).all()
    assert seen == [[len(w) for w in WAVEFORMS]]


def test_whoever_watches_sees_each_pass(llada):
    passes, run = [], Recognizer(llada, OPTIONS)
    run.on_pass = passes.append
    result = run.decode(WAVEFORMS[:1], IDS[:1])
    assert len(passes) == int(result.passes[0])
    assert torch.equal(passes[-1].tokens, result.tokens)


def test_without_audio_the_lm_is_shown_the_transcript_alone(llada):
    options = SamplerOptions("deliberation_semi_ar", steps=4, num_blocks=2)
    run, ids = Recognizer(llada, options), llada.decoder.encode_texts(["a lovely dog"])
    first, second, none, again = (
        run.deliberate(given, ["x"], ids).log_probs.sum().item()
        for given in (WAVEFORMS[:1], WAVEFORMS[1:2], None, None)
    )
    assert first != second and none not in (first, second) and none == again
