"""Fixed shapes: the tokens of the plain ways, from memory that is used again."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from espnet_llada.baseline.autoregressive import beam_search
from espnet_llada.bench.fixed import FixedPass, StaticGreedy
from espnet_llada.build import WhisperLLM
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.recognizer import Recognizer
from espnet_llada.types import UserError

RUNTIMES = [
    ("static", "inductor"),
    ("compile", "eager"),
    pytest.param("compile", "inductor", marks=pytest.mark.slow),
]


def model_of(tiny_config, decoder):
    torch.manual_seed(0)
    model = WhisperLLM.from_config({**copy.deepcopy(tiny_config), "decoder": decoder})
    generator = torch.Generator().manual_seed(8)
    lm = model.decoder.lm
    # The tied head repeats the last token for ever; this one ends some rows early.
    head = torch.randn(lm.head.shape, generator=generator) * 0.4
    head[model.decoder.special.eos] *= 2
    lm.head = torch.nn.Parameter(head, requires_grad=False)
    return model.eval()


@pytest.fixture(scope="module")
def llama(tiny_config):
    return model_of(tiny_config, "llama")


@pytest.fixture(scope="module")
def llada(tiny_config):
    return model_of(tiny_config, "llada")


@torch.no_grad()
def heard_by(decoder, *sizes, seed=8):
    generator = torch.Generator().manual_seed(seed)
    width = decoder.projection.in_features
    audio = torch.randn(len(sizes), max(sizes), width, generator=generator) * 4
    return decoder.listen(audio, torch.tensor(sizes))


def speech(*seconds):
    random = np.random.default_rng(3)
    sizes = [round(s * 16_000) for s in seconds]
    return [random.normal(0, 0.1, n).astype(np.float32) for n in sizes]


@pytest.mark.parametrize(("runtime", "backend"), RUNTIMES)
def test_greedy_over_a_static_cache_finds_the_same_tokens(llama, runtime, backend):
    greedy = StaticGreedy(llama.decoder, runtime, backend)
    ends = set()
    for seed, length in ((8, 7), (9, 7), (8, 24), (10, 24), (8, 1)):
        prefix = heard_by(llama.decoder, 9, 4, 7, seed=seed).prefix
        expected = beam_search(llama.decoder, prefix, length)
        got = greedy(llama.decoder, prefix, length)
        assert torch.equal(got.tokens, expected.tokens)
        assert torch.equal(got.passes, expected.passes)
        torch.testing.assert_close(got.log_probs, expected.log_probs)
        ends |= set(expected.passes.tolist())
    assert len(ends) > 3, "rows that end at different times"


def test_running_a_step_for_its_capture_leaves_nothing_behind(llama, monkeypatch):
    def captured(step, *_):
        for _ in range(4):  # three to be warm, and the capture
            step()
        return step

    monkeypatch.setattr("espnet_llada.bench.fixed.runner", captured)
    prefix = heard_by(llama.decoder, 9, 4, 7).prefix
    expected = beam_search(llama.decoder, prefix, 24)
    got = StaticGreedy(llama.decoder, "graph")(llama.decoder, prefix, 24)
    assert torch.equal(got.tokens, expected.tokens)


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["graph", "compile"])
@pytest.mark.parametrize("blind", [False, True])
def test_on_a_gpu(tiny_config, runtime, blind):
    llama, llada = (model_of(tiny_config, name).cuda() for name in ("llama", "llada"))
    greedy = StaticGreedy(llama.decoder, runtime)
    fixed = FixedPass(llada.decoder, runtime)
    llada.decoder.prefix_blind = blind
    ways = ((llama, greedy, SamplerOptions(canvas_length=24)),)
    ways += ((llada, fixed, SamplerOptions(steps=5, canvas_length=12)),)
    for model, way, options in ways:
        recognizer = Recognizer(model, options)
        for seconds in ((1.0, 0.4), (0.7, 1.0), (1.0,)):
            given = speech(*seconds), [str(i) for i in range(len(seconds))]
            expected = recognizer(*given)
            with way.installed(recognizer):
                got = [recognizer(*given) for _ in range(2)]
            for hypotheses in got:  # captured, then replayed
                for mine, plain in zip(hypotheses, expected, strict=True):
                    assert mine.token_ids == plain.token_ids
                    assert mine.passes == plain.passes


def test_it_stops_once_all_rows_have_ended(llama, monkeypatch):
    greedy = StaticGreedy(llama.decoder, "static")
    monkeypatch.setattr(greedy, "check_every", 2)
    prefix = heard_by(llama.decoder, 9, 4, 7).prefix.rows(torch.tensor([1, 2]))
    expected = beam_search(llama.decoder, prefix, 200)
    assert expected.passes.max() < 60, "both rows end"
    steps = []
    memory = greedy.memory

    def watched(*args):
        found = memory(*args)
        if not steps:
            step = found.run
            found.run = lambda: (steps.append(1), step())
        return found

    monkeypatch.setattr(greedy, "memory", watched)
    got = greedy(llama.decoder, prefix, 200)
    assert torch.equal(got.tokens, expected.tokens)
    assert 0 <= len(steps) - int(expected.passes.max()) + 1 <= 2


@pytest.mark.parametrize(("runtime", "backend"), RUNTIMES)
@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize("blind", [False, True])
def test_passes_of_a_fixed_shape_fill_the_same_canvas(
    llada, runtime, backend, threshold, blind, monkeypatch
):
    monkeypatch.setattr(llada.decoder, "prefix_blind", blind)
    options = SamplerOptions(
        steps=5, canvas_length=9, tokens_per_second=6, threshold=threshold
    )
    recognizer = Recognizer(llada, options)
    fixed = FixedPass(llada.decoder, runtime, backend)
    for seconds in ((1.0, 0.4, 0.7), (0.7, 0.7, 1.0), (1.0,)):
        given = speech(*seconds), [str(i) for i in range(len(seconds))]
        expected = recognizer(*given)
        with fixed.installed(recognizer):
            got = recognizer(*given)
        assert [h.token_ids for h in got] == [h.token_ids for h in expected]
        assert [h.passes for h in got] == [h.passes for h in expected]
    assert "logits_fn" not in vars(llada.decoder)


@torch.no_grad()
@pytest.mark.parametrize("blind", [False, True])
def test_a_step_needs_nothing_from_the_host(llama, llada, blind, monkeypatch):
    monkeypatch.setattr(llada.decoder, "prefix_blind", blind)
    # In a CUDA graph it could not: fake tensors refuse whatever depends on a value.
    from torch._subclasses import FakeTensorMode, fake_tensor

    greedy = StaticGreedy(llama.decoder, "static")
    greedy(llama.decoder, heard_by(llama.decoder, 9, 4).prefix, 3)
    fixed, heard = FixedPass(llada.decoder, "static"), heard_by(llada.decoder, 9, 4)
    tokens = torch.full((2, 5), llada.decoder.special.mask)
    lengths = torch.tensor([5, 3])
    fixed.logits_fn(heard, lengths)(tokens, tokens > 0)
    for way in (greedy, fixed):
        (memory,) = way._memories.values()
        with FakeTensorMode(allow_non_fake_inputs=True):
            for part in memory.parts:
                part.step()
            asks = fake_tensor.DataDependentOutputException
            with pytest.raises(asks):  # the mode does notice
                bool(memory.mask.any())


def test_a_recognizer_searches_as_before_afterwards(llama):
    recognizer = Recognizer(llama, SamplerOptions(canvas_length=6))
    plain = recognizer(speech(0.5), ["a"])
    with StaticGreedy(llama.decoder, "static").installed(recognizer):
        assert recognizer.search is not beam_search
        assert "_encode" in vars(llama.encoder)
        for _ in range(2):  # made, then used again
            got = recognizer(speech(0.5), ["a"])
    assert recognizer.search is beam_search and "_encode" not in vars(llama.encoder)
    assert got[0].token_ids == plain[0].token_ids and got[0].passes == plain[0].passes


def test_a_blind_prefix_is_seen_once(llada, monkeypatch):
    monkeypatch.setattr(llada.decoder, "prefix_blind", True)
    fixed, widths = FixedPass(llada.decoder, "static"), []
    layer = fixed.layer

    def watched(own, embeds, *rest):
        widths.append(embeds.shape[1])
        return layer(own, embeds, *rest)

    fixed.layer = watched
    recognizer = Recognizer(llada, SamplerOptions(steps=3, canvas_length=9))
    for _ in range(2):  # another utterance is heard anew
        widths.clear()
        with fixed.installed(recognizer):
            recognizer(speech(1.0), ["a"])
        first, *later = widths[:: len(llada.decoder.lm.body.layers)]
        assert first > 9 and later and set(later) == {9}


def test_what_needs_other_shapes_is_refused(llama, llada, monkeypatch):
    greedy = StaticGreedy(llama.decoder, "static")
    with pytest.raises(UserError, match="beam_size 2"):
        greedy(llama.decoder, heard_by(llama.decoder, 3).prefix, 4, 2)
    monkeypatch.setattr(llada.decoder, "pointer", torch.nn.Identity())
    with pytest.raises(UserError, match="pointer"):
        FixedPass(llada.decoder, "graph")
