"""A transcript's words go to the pieces of the recording in which they are spoken."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_llada.build import build_model
from espnet_llada.inference.long_form import cut_transcript
from espnet_llada.inference.options import make_options
from espnet_llada.inference.recognizer import Transcriber

words_st = st.lists(st.sampled_from("a b c d e".split()), max_size=8).map(" ".join)


@given(words_st, st.lists(words_st, min_size=1, max_size=4))
def test_no_word_is_lost(transcript, drafts):
    parts = cut_transcript(transcript, drafts)
    assert len(parts) == len(drafts)
    assert " ".join(part for part in parts if part) == transcript


@given(st.lists(words_st, min_size=1, max_size=4))
def test_a_transcript_of_the_drafts_is_cut_as_they_are(drafts):
    assert cut_transcript(" ".join(filter(None, drafts)), drafts) == drafts


def test_errors_on_either_side():
    transcript = "And, so it Was. God as a DIRECT consequence had given her"
    drafts = ["and so it was", "got as the direct consequence of", "it given her"]
    assert cut_transcript(transcript, drafts) == [
        "And, so it Was.",
        "God as a DIRECT consequence",
        "had given her",
    ]
    assert cut_transcript("a b", ["", "a b", ""]) == ["", "a b", ""]
    assert cut_transcript("", ["a", "b"]) == ["", ""]


@pytest.mark.parametrize("ctc", [None, {"weight": 0.1}])
def test_a_long_recording_is_cut_for_deliberation_where_a_ctc_knows_the_words(
    tiny_config, ctc
):
    torch.manual_seed(0)
    config = copy.deepcopy(tiny_config)
    config["decoder_conf"]["ctc"] = ctc
    model = build_model(config)
    if ctc is not None:  # a draft with words in every piece
        torch.nn.init.constant_(model.decoder.audio_prefix.ctc.blank.bias, 0.0)
    long = np.random.default_rng(0).normal(0, 0.1, 16_000 * 65).astype(np.float32)
    options = {"strategy": "deliberation_random", "mask_ratio": 0.5, "steps": 1}
    sizes = []
    run = Transcriber(model, make_options({**options, "tail": 0}))
    run.on_pass = lambda done: sizes.append(len(done.seen))
    text = "the quick brown fox jumps over the lazy dog and sang of the sea"
    run([long], ["long"], [text])
    assert sizes == [1 if ctc is None else 3]
