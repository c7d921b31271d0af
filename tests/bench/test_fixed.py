"""Fixed shapes: the tokens of the plain ways, from memory that is used again."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from espnet_llada.baseline.autoregressive import beam_search
from espnet_llada.bench.fixed import FixedPasses, StaticGreedy, fixed
from espnet_llada.bench.ways import Way, plain
from espnet_llada.build import build_model
from espnet_llada.inference.options import DecodingOptions, make_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.networks.backbone import OutputHead
from espnet_llada.types import UserError

RUNTIMES = [
    ("static", "inductor"),
    ("compile", "eager"),
    pytest.param("compile", "inductor", marks=pytest.mark.slow),
]


def model_of(tiny_config, decoder, cached=False):
    torch.manual_seed(0)
    config = {**copy.deepcopy(tiny_config), "decoder": decoder}
    config["decoder_conf"]["cached_prefix"] = cached
    model = build_model(config)
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


@pytest.fixture(scope="module", params=[False, True], ids=["seeing", "cached"])
def llada(request, tiny_config):
    """With a prefix that sees the response, and with one that does not."""
    return model_of(tiny_config, "llada", request.param)


@torch.no_grad()
def prefix_of(decoder, *sizes, seed=8):
    generator = torch.Generator().manual_seed(seed)
    width = decoder.audio_prefix.projection.in_features
    audio = torch.randn(len(sizes), max(sizes), width, generator=generator) * 4
    return decoder.prefix(audio, torch.tensor(sizes))


def speech(*seconds):
    random = np.random.default_rng(3)
    sizes = [round(s * 16_000) for s in seconds]
    return [random.normal(0, 0.1, n).astype(np.float32) for n in sizes]


@pytest.mark.parametrize(("runtime", "backend"), RUNTIMES)
def test_greedy_over_a_static_cache_finds_the_same_tokens(llama, runtime, backend):
    greedy = StaticGreedy(llama.decoder, runtime, backend)
    ends = set()
    for seed, length in ((8, 7), (9, 7), (8, 24), (10, 24), (8, 1)):
        prefix = prefix_of(llama.decoder, 9, 4, 7, seed=seed)
        expected = beam_search(llama.decoder, prefix, length)
        got = greedy.search(llama.decoder, prefix, length)
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
    prefix = prefix_of(llama.decoder, 9, 4, 7)
    expected = beam_search(llama.decoder, prefix, 24)
    got = StaticGreedy(llama.decoder, "graph").search(llama.decoder, prefix, 24)
    assert torch.equal(got.tokens, expected.tokens)


def recognise(way: Way, options: DecodingOptions, *seconds) -> list[tuple]:
    """Tokens and passes of utterances."""
    run = Transcriber(way.model, options, stages=way.stages)
    found = run(speech(*seconds), [str(i) for i in range(len(seconds))])
    return [(h.token_ids, h.passes) for h in found]


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["graph", "compile"])
@pytest.mark.parametrize("system", ["llama", "llada", "cached"])
def test_on_a_gpu(tiny_config, runtime, system):
    kind = "llama" if system == "llama" else "llada"
    model = model_of(tiny_config, kind, system == "cached").cuda()
    options = {"steps": 5, "canvas_length": 12}
    if system == "llama":
        options = {"canvas_length": 24}
    options, way = make_options(options), fixed(model, runtime)
    for seconds in ((1.0, 0.4), (0.7, 1.0), (1.0,)):
        expected = recognise(plain(model), options, *seconds)
        for _ in range(2):  # captured, then replayed
            assert recognise(way, options, *seconds) == expected


def test_it_stops_once_all_rows_have_ended(llama, monkeypatch):
    greedy = StaticGreedy(llama.decoder, "static")
    monkeypatch.setattr(greedy, "check_every", 2)
    prefix = prefix_of(llama.decoder, 9, 4, 7).rows([1, 2])
    expected = beam_search(llama.decoder, prefix, 200)
    assert expected.passes.max() < 60, "both rows end"
    steps = []
    memory = greedy.memory

    def watched(*args):
        found = memory(*args)
        if not steps:
            (step,) = found.runs
            found.runs = [lambda: (steps.append(1), step())]
        return found

    monkeypatch.setattr(greedy, "memory", watched)
    got = greedy.search(llama.decoder, prefix, 200)
    assert torch.equal(got.tokens, expected.tokens)
    assert 0 <= len(steps) - int(expected.passes.max()) + 1 <= 2


@pytest.mark.parametrize(("runtime", "backend"), RUNTIMES)
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_passes_of_a_fixed_shape_fill_the_same_canvas(
    llada, runtime, backend, threshold
):
    options = {"steps": 5, "canvas_length": 9, "threshold": threshold}
    options = make_options({**options, "canvas_size": {"tokens_per_second": 6}})
    way = fixed(llada, runtime, backend)
    for seconds in ((1.0, 0.4, 0.7), (0.7, 0.7, 1.0), (1.0,)):
        expected = recognise(plain(llada), options, *seconds)
        assert recognise(way, options, *seconds) == expected


@torch.no_grad()
def test_a_step_needs_nothing_from_the_host(llama, llada):
    # In a CUDA graph it could not: fake tensors refuse whatever depends on a value.
    from torch._subclasses import FakeTensorMode, fake_tensor

    greedy = StaticGreedy(llama.decoder, "static")
    greedy.search(llama.decoder, prefix_of(llama.decoder, 9, 4), 3)
    passes = FixedPasses(llada.decoder, "static")
    tokens = torch.full((2, 5), llada.decoder.special.mask)
    prefix, lengths = prefix_of(llada.decoder, 9, 4), torch.tensor([5, 3])
    passes.passes(llada.decoder, prefix, lengths)(tokens, tokens > 0)
    for way in (greedy, passes):
        (memory,) = way.memories.values()
        with FakeTensorMode(allow_non_fake_inputs=True):
            for step in memory.steps:
                step()
            asks = fake_tensor.DataDependentOutputException
            with pytest.raises(asks):  # the mode does notice
                bool(memory.mask.any())


def test_the_model_stays_as_it_was(llama):
    before = {name: {**vars(module)} for name, module in llama.named_modules()}
    options, way = make_options({"canvas_length": 6}), fixed(llama, "static")
    expected = recognise(plain(llama), options, 0.5)
    for _ in range(2):  # made, then used again
        assert recognise(way, options, 0.5) == expected
    assert way.model.encoder is not llama.encoder
    for mine, own in zip(way.model.parameters(), llama.parameters(), strict=True):
        assert mine.data_ptr() == own.data_ptr()
    after = {name: {**vars(module)} for name, module in llama.named_modules()}
    assert {n: set(v) for n, v in after.items()} == {
        n: set(v) for n, v in before.items()
    }


def test_a_prefix_that_does_not_see_the_response_is_run_once(tiny_config):
    llada = model_of(tiny_config, "llada", cached=True)
    way, widths = fixed(llada, "static"), []
    lm = way.llm[0].lm
    layer = lm.layer

    def watched(own, embeds, *rest):
        widths.append(embeds.shape[1])
        return layer(own, embeds, *rest)

    lm.layer = watched
    options = make_options({"steps": 3, "canvas_length": 9})
    for _ in range(2):  # another utterance is read anew
        widths.clear()
        recognise(way, options, 1.0)
        first, *later = widths[:: len(llada.decoder.lm.body.layers)]
        assert first > 9 and later and set(later) == {9}


def test_what_needs_other_shapes_is_refused(llama, llada):
    greedy = StaticGreedy(llama.decoder, "static")
    prefix = prefix_of(llama.decoder, 3)
    with pytest.raises(UserError, match="beam_size 2"):
        greedy.search(llama.decoder, prefix, 4, 2)

    class OtherHead(OutputHead):
        """A copy mechanism's, for one."""

    prefix = replace(prefix, head=OtherHead(llama.decoder.lm))
    with pytest.raises(UserError, match="copy_head"):
        greedy.search(llama.decoder, prefix, 4)
