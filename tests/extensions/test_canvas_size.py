"""Blank canvases of an utterance's own size."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import check_batches, encoded, recognize

from espnet_llada.inference.options import make_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.types import SAMPLE_RATE


def sizes_of(model, speech, **options) -> list[int]:
    """Of each utterance's canvas."""
    run = Transcriber(model, make_options({"steps": 1, **options}))
    found, mask = [], model.decoder.special.mask
    run.on_pass = lambda done: found.append(int((done.seen == mask).sum()))
    for waveform in speech:
        run([waveform], ["x"])
    return found


def test_by_the_duration_and_by_the_words(model, speech):
    by_time = [math.ceil(9 * len(w) / SAMPLE_RATE) + 2 for w in speech]
    own = {"tokens_per_second": 9.0}
    assert sizes_of(model, speech, canvas_size=own) == by_time
    assert sizes_of(model, speech, canvas_size=own, canvas_length=5) == [5, 5, 5]
    with torch.no_grad():
        words = [model.decoder.prefix(*encoded(model, w)).words[0] for w in speech]
    by_words = [math.ceil(1.5 * n) + 2 for n in words]
    assert min(words) > 0
    own = {"positions_per_vector": 1.5}
    assert sizes_of(model, speech, canvas_size=own) == by_words
    both = [min(pair) for pair in zip(by_time, by_words, strict=True)]
    own |= {"tokens_per_second": 9.0}
    assert sizes_of(model, speech, canvas_size=own) == both


def test_without_a_rate_it_is_as_long_as_ever(model, speech):
    assert sizes_of(model, speech, canvas_size={}, canvas_length=7) == [7, 7, 7]


@pytest.mark.parametrize(
    "size", [{"tokens_per_second": 9.0}, {"positions_per_vector": 1.0}], ids=str
)
def test_a_row_does_not_depend_on_its_batch(model, speech, size):
    options = {"steps": 4, "canvas_size": size}
    semi_ar = {"strategy": "semi_ar", "num_blocks": 2}
    for more in ({}, semi_ar, {"draft_refinement": {}}):
        check_batches(model, speech, None, {**options, **more})


def test_a_causal_lm_is_not_concerned(llama, speech):
    options = {"canvas_length": 6}
    expected = recognize(llama, speech, **options)
    own = {"positions_per_vector": 1.0}
    assert recognize(llama, speech, **options, canvas_size=own) == expected
