"""A trace changes nothing and accounts for every pass."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from espnet_llada.build import WhisperLLM, build_model
from espnet_llada.inference.options import DecodingOptions, make_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.sweep.trace import trace

WAVEFORM = np.random.default_rng(1).normal(0, 0.1, 16_000).astype(np.float32)
TEXT = "the quick brown fox jumps"


def options_of(**values) -> DecodingOptions:
    return make_options(values)


@pytest.fixture(scope="module")
def llada(tiny_config) -> WhisperLLM:
    torch.manual_seed(0)
    return build_model(tiny_config)


@pytest.mark.parametrize(
    "options",
    [
        options_of(steps=4, canvas_length=12),
        options_of(strategy="semi_ar", steps=6, num_blocks=3, canvas_length=12),
        options_of(strategy="deliberation_random", steps=3, mask_ratio=0.6),
        options_of(strategy="deliberation_low_confidence", steps=4),
        options_of(strategy="deliberation_semi_ar", steps=4, num_blocks=2),
    ],
    ids=lambda o: o.strategy,
)
def test_frames(llada, options):
    run = Transcriber(llada, options)
    given = TEXT if options.deliberates else None
    plain = run([WAVEFORM], ["u"], given and [given])[0]
    hypothesis, frames = trace(run, WAVEFORM, "u", given)
    assert hypothesis == plain and run.on_pass is None
    passes = [frame for frame in frames if frame.kind != "masked"]
    assert [frame.passes for frame in passes] == list(range(1, plain.passes + 1))
    last = frames[-1].cells
    ends = [i for i, cell in enumerate(last) if cell.end]
    tokens = tuple(cell.token for cell in last[: ends[0] if ends else len(last)])
    assert tokens == plain.tokens
    for before, after in itertools.pairwise(frames):
        if after.kind != "pass":
            continue
        now = [i for i, cell in enumerate(after.cells) if cell.committed]
        assert now and all(not before.cells[i].token for i in now)
        assert all(0 < after.cells[i].probability <= 1 for i in now)
    measured = options.strategy == "deliberation_low_confidence"
    assert (frames[0].kind == "measured") == measured
    if measured:
        assert all(cell.probability is not None for cell in frames[0].cells)
        masked = [i for i, cell in enumerate(frames[1].cells) if not cell.token]
        kept = [i for i in range(len(last) - options.sampler.tail) if i not in masked]
        p = [cell.probability for cell in frames[0].cells]
        own = [i for i in masked if i < len(last) - options.sampler.tail]
        assert max(p[i] for i in own) <= min(p[i] for i in kept)


def test_nothing_masked_is_no_frame(llada):
    options = options_of(strategy="deliberation_random", mask_ratio=0.0)
    hypothesis, frames = trace(Transcriber(llada, options), WAVEFORM, "u", TEXT)
    assert frames == [] and hypothesis.passes == 0
