"""Decoding from a CTC's draft."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tiny_models import check_batches, encoded, linear_ctc_model, recognize

from espnet_llada.core.canvas import transcript_canvas
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.sampler import sample
from espnet_llada.extensions.mask_ctc import Hook, Options
from espnet_llada.types import SpecialTokens

SPECIAL = SpecialTokens(mask=11, eos=10)
SURE = [[math.log(p) for p in (0.9, 0.3, 0.8, 0.6)]]


def filled(options: Options, **sampler):
    """Of an LM that writes 7 everywhere, and ends behind the draft."""
    canvas = transcript_canvas([[1, 2, 3, 4]], SPECIAL, 1, confidence=SURE)
    sampler = SamplerOptions(**sampler)

    def lm(tokens, wanted):
        logits = torch.zeros(*tokens.shape, 12)
        logits[:, :4, 7] = logits[:, 4:, SPECIAL.eos] = 9.0
        return logits[wanted]

    hook = Hook(options, SimpleNamespace(special=SPECIAL), sampler, None)
    plan = partial(hook.plan, None)
    return sample(lm, canvas, sampler, SPECIAL, plan=plan)


@pytest.mark.parametrize(
    ("options", "expected", "passes"),
    [
        ({"mask_ratio": 0.5}, [1, 7, 3, 7], 1),
        ({"mask_ratio": 0.25}, [1, 7, 3, 4], 1),
        ({"mask_ratio": 0.2}, [1, 2, 3, 4], 0),
        ({"mask_threshold": 0.85}, [1, 7, 7, 7], 1),
        ({"mask_threshold": 0.2, "mask_ratio": 1.0}, [1, 2, 3, 4], 0),
    ],
)
def test_the_lm_fills_in_what_the_ctc_is_least_sure_of(options, expected, passes):
    result = filled(Options(**options), steps=1)
    assert result.tokens.tolist() == [[*expected, SPECIAL.eos]]
    assert result.passes.tolist() == [passes]


@pytest.mark.parametrize("options", [{}, {"mask_threshold": 0.9}], ids=str)
def test_a_row_does_not_depend_on_its_batch(model, speech, options):
    for more in ({}, {"draft_refinement": {}}):
        check_batches(model, speech, None, {"steps": 3, "mask_ctc": options, **more})


def test_a_linear_prefix_with_a_ctc_has_a_draft(tiny_config, speech):
    model = linear_ctc_model(tiny_config)
    check_batches(model, speech, None, {"steps": 3, "mask_ctc": {}})
    kept = recognize(model, speech, mask_ctc={"mask_ratio": 0.0})
    decoder = model.decoder
    for waveform, hypothesis in zip(speech, kept, strict=True):
        with torch.no_grad():
            given = decoder.prompt, *encoded(model, waveform)
            (draft,) = decoder.audio_prefix.draft(*given)
        assert draft and hypothesis.passes == 0
        draft = [token for token in draft if token != decoder.special.eos]
        assert list(hypothesis.token_ids) == draft
