"""Options that a model, or another option, excludes are refused in one line."""

from __future__ import annotations

import copy

import pytest
import torch

from espnet_llada.build import build_model
from espnet_llada.inference.hooks import make_hook
from espnet_llada.inference.options import EXTENSIONS, make_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.types import UserError

LOW, RANDOM = "deliberation_low_confidence", "deliberation_random"


def refused(model, message: str, use_audio: bool = True, **options: object) -> None:
    with pytest.raises(UserError, match=message) as e:
        Transcriber(model, make_options(options), use_audio)
    assert "\n" not in str(e.value)


@pytest.fixture(scope="module")
def plain(tiny_config):
    """The paper's model: no CTC, no scorer."""
    torch.manual_seed(0)
    return build_model(copy.deepcopy(tiny_config)).eval()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draft_refinement": {}}, "draft_refinement: this model has no scorer"),
        ({"joint": {}}, "joint: this model has no scorer; train with 'whisper_scorer'"),
        ({"rescoring": {}}, "rescoring: this model has no scorer"),
        (
            {"placeholders": {}, "strategy": RANDOM},
            "placeholders: this model has no",
        ),
        (
            {"confidence": {"passes": 0}, "strategy": LOW},
            "confidence: passes 0: this model has no scorer",
        ),
        ({"mask_ctc": {}}, "mask_ctc: this model has no CTC to make a draft"),
        (
            {"canvas_size": {"positions_per_vector": 1.0}},
            "positions_per_vector: this model has no posterior prefix; train with",
        ),
    ],
    ids=str,
)
def test_what_the_papers_model_lacks(plain, options, message):
    refused(plain, message, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draft_refinement": {}, "strategy": LOW}, "deliberation has no draft of its"),
        ({"canvas_size": {}, "strategy": LOW}, "canvas is as long as the transcript"),
        (
            {"mask_ctc": {}, "strategy": "semi_ar"},
            "mask_ctc: strategy semi_ar does not start",
        ),
        (
            {"mask_ctc": {}, "strategy": RANDOM},
            "strategy deliberation_random does not",
        ),
        ({"placeholders": {}}, "placeholders: no text is on the canvas"),
        ({"placeholders": {}, "strategy": "semi_ar"}, "no text is on the canvas"),
        ({"confidence": {}}, "is for deliberation_low_confidence, not for diffusion"),
        ({"commit": {"position_bias": 0.2}}, "position_bias: needs entropy_budget"),
        (
            {"commit": {"draft_threshold": 0.5}, "block_cache": {}},
            "draft_threshold: scores drafts on the whole canvas",
        ),
        ({"confidence": {}, "strategy": RANDOM}, "not for deliberation_random"),
        (
            {"confidence": {"passes": 5}, "strategy": LOW, "steps": 5},
            "leaves nothing of",
        ),
    ],
    ids=str,
)
def test_what_the_strategy_excludes(model, options, message):
    refused(model, message, **options)


def test_placeholders_have_to_be_learnt(model):
    object.__setattr__(model.decoder.audio_prefix.options, "placeholders", 0.0)
    own = {"strategy": RANDOM, "placeholders": {}}
    refused(model, "train with 'placeholders' in posterior_prefix", **own)


def test_a_causal_lm_has_no_canvas_to_begin_with(llama):
    refused(llama, "mask_ctc: is for a model with 'decoder: llada'", mask_ctc={})
    for own in ({"confidence": {}}, {"placeholders": {}}):
        refused(llama, "is for delib|no text is on", **own)


@pytest.mark.parametrize("name", sorted(set(EXTENSIONS) - {"block_cache"}))
def test_without_audio_there_is_nothing_to_ask(model, name):
    own = {"strategy": LOW, name: {}}
    refused(model, f"{name}: needs audio", False, **own)


def test_a_block_cache_needs_no_audio(model):
    options = make_options({"strategy": LOW, "block_cache": {}})
    given = model.decoder, options.sampler, options.extensions
    assert make_hook(*given, use_audio=False) is not None
