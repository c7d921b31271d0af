"""Which tokens of a text are masked: by threshold, in passes, or by the scorer."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tiny_models import SCORED, check_batches, encoded, recognize

from espnet_llada.core.canvas import transcript_canvas
from espnet_llada.core.masking import make_plan
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.sampler import sample
from espnet_llada.extensions.confidence import Hook, Options
from espnet_llada.inference.options import make_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.sweep.trace import trace
from espnet_llada.types import SpecialTokens

SPECIAL = SpecialTokens(mask=11, eos=10)
TEXT, LIKELY = [1, 2, 3, 4, 5, 6], [1, 0.9, 1, 1, 0.2, 1]


def lm(tokens, wanted):
    """Finds the tokens of TEXT so LIKELY, wherever they are masked, and else 9."""
    logits = torch.full((*tokens.shape, 12), math.log(1e-9))
    for place, (token, share) in enumerate(zip(TEXT, LIKELY, strict=True)):
        logits[:, place, 9] = math.log(max(1 - share, 1e-9))
        logits[:, place, token] = math.log(share)
    logits[:, len(TEXT) :, SPECIAL.eos] = 0.0
    return logits[wanted]


def filled(options: Options, steps: int = 8, ratio: float = 0.5):
    """The result, and what each pass was asked for."""
    sampler = SamplerOptions(**SCORED, steps=steps, mask_ratio=ratio)
    canvas, asked = transcript_canvas([TEXT], SPECIAL, 1), []

    def passes(tokens, wanted):
        asked.append(wanted[0].nonzero()[:, 0].tolist())
        return lm(tokens, wanted)

    def make(logits_fn, canvas, random):
        return make_plan(logits_fn, canvas, sampler, SPECIAL, random)

    hook = Hook(options, SimpleNamespace(special=SPECIAL), sampler, None)
    plan = partial(hook.plan, make)
    return sample(passes, canvas, sampler, SPECIAL, plan=plan), asked


def test_a_threshold_masks_what_is_less_probable_whatever_the_ratio():
    result, asked = filled(Options(mask_threshold=0.5))
    assert asked[0] == [*range(7)], "all are measured"
    assert asked[1] == [4, 6], "the doubtful one, and the tail"
    assert result.tokens.tolist() == [[1, 2, 3, 4, 9, 6, 10]]
    _, asked = filled(Options(mask_threshold=0.95))
    assert asked[1] == [1, 4, 6]
    result, asked = filled(Options(mask_threshold=0.1))
    assert result.passes.tolist() == [len(asked)] == [1], "nobody doubts it"


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_each_pass_measures_a_part_of_the_transcript(passes):
    result, asked = filled(Options(passes=passes), steps=passes + 1)
    assert asked[:passes] == [[*range(n, 7, passes)] for n in range(passes)]
    assert len(asked) == passes + 1 == result.passes.item()
    assert len(asked[-1]) == 3 + 1 and {1, 4} < set(asked[-1])


def test_a_ratio_of_nothing_takes_no_pass():
    result, asked = filled(Options(passes=2), ratio=0.1)
    assert not asked and result.tokens[0, :6].tolist() == TEXT


def test_what_the_scorer_doubts_is_masked_without_a_pass(model, speech, texts):
    """The least likely third of the tokens, and nothing else, may change."""
    ids = model.decoder.encode_texts(texts[:1])
    options = {**SCORED, "confidence": {"passes": 0}, "steps": 9, "mask_ratio": 0.34}
    run = Transcriber(model, make_options(options))
    frames = trace(run, speech[0], "u0", texts[0])[1]
    assert frames[0].kind == "masked" and frames[0].passes == 0
    masked = [i for i, cell in enumerate(frames[0].cells[:-1]) if not cell.token]
    with torch.no_grad():
        prefix = model.decoder.prefix(*encoded(model, speech[0]), ids)
        sure = prefix.draft.log_probs[0]
    least = sorted(range(len(ids[0])), key=sure.__getitem__)[: len(masked)]
    assert len(masked) == int(0.34 * len(ids[0])) > 0 and masked == sorted(least)
    own = {"passes": 0, "mask_threshold": 1e-9}
    kept = recognize(model, speech, texts, **SCORED, confidence=own)
    assert [h.passes for h in kept] == [0, 0, 0]
    assert [h.text for h in kept] == texts


@pytest.mark.parametrize("passes", [0, 2])
def test_a_row_does_not_depend_on_its_batch(model, speech, texts, passes):
    for own in ({}, {"mask_threshold": 0.9}):
        options = {**SCORED, "steps": 4, "confidence": {"passes": passes, **own}}
        check_batches(model, speech, texts, options)
