"""Where nothing is spoken nothing is written, and a first pass stays."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from espnet_llada.build import build_model
from espnet_llada.core.model import WhisperLLM
from espnet_llada.inference.options import make_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.io.waveform import is_inaudible, is_quiet, split_long

RATE = 16_000
TEXT = "the quick brown fox"
RANDOM = np.random.default_rng(0)


def noise(level: float, seconds: float = 1.0) -> np.ndarray:
    return (level * RANDOM.normal(size=int(RATE * seconds))).astype(np.float32)


def transcriber(model: WhisperLLM, **options: object) -> Transcriber:
    return Transcriber(model, make_options(options))


@pytest.fixture(scope="module", params=["with a CTC", "without"])
def llada(tiny_config, request) -> WhisperLLM:
    torch.manual_seed(0)
    config = copy.deepcopy(tiny_config)
    if request.param == "with a CTC":
        config["decoder_conf"]["ctc"] = {"weight": 0.1}
    return build_model(config)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 31.0])
def test_digital_silence_has_no_words_and_keeps_its_first_pass(llada, seconds):
    silence = np.zeros(int(RATE * seconds), np.float32)
    dither = RANDOM.integers(-1, 2, len(silence)).astype(np.float32) / 32768
    speech = noise(0.1)
    batch, ids = [silence, speech, dither], ["a", "b", "c"]
    run = transcriber(llada, steps=3, canvas_length=8)
    found = run(batch, ids)
    assert [bool(h.text) for h in found] == [False, True, False]
    assert [h.passes for h in found] == [0, 3, 0]
    (alone,) = run([speech], ["b"])
    assert found[1].token_ids == alone.token_ids
    options = {"strategy": "deliberation_random", "steps": 3, "mask_ratio": 1.0}
    over = transcriber(llada, **options)(batch, ids, [TEXT] * 3)
    assert over[0].text == over[2].text == TEXT != over[1].text
    assert [h.passes for h in over] == [0, 3, 0]


def test_a_piece_of_silence_adds_nothing(llada):
    """8 s of speech and 16 of silence, in pieces of 12 at most: one has words."""
    recording = np.concatenate([noise(0.1, 8), np.zeros(16 * RATE, np.float32)])
    options = {"steps": 2, "canvas_length": 6, "long_form": {"max_segment_seconds": 12}}
    pieces = split_long(recording, 12.0)
    (whole,) = transcriber(llada, **options)([recording], ["a"])
    (first,) = transcriber(llada, **options)(pieces[:1], ["a"])
    assert len(pieces) > 1 and not any(piece.any() for piece in pieces[1:])
    assert whole.text == first.text != "" and whole.passes == first.passes


@pytest.mark.parametrize("blank", [-30.0, 30.0])
def test_quiet_is_judged_by_the_ctc(tiny_config, blank):
    """Where it has blanks alone nothing is spoken; of loud noise it is not asked."""
    torch.manual_seed(0)
    config = copy.deepcopy(tiny_config)
    config["decoder_conf"]["ctc"] = {"weight": 0.1}
    model = build_model(config)
    torch.nn.init.constant_(model.decoder.audio_prefix.ctc.blank.bias, blank)
    run = transcriber(model, steps=2)
    found = run([noise(3e-4), noise(0.1)], ["a", "b"])
    assert [h.passes for h in found] == [0 if blank > 0 else 2, 2]


def test_levels():
    click = np.zeros(RATE, np.float32)
    click[5000] = 0.5
    assert is_quiet(click) and not is_inaudible(click)
    assert is_quiet(noise(3e-4)) and not is_inaudible(noise(3e-4))
    assert not is_quiet(noise(0.01))
    speech_in_silence = np.concatenate([noise(0.05), np.zeros(9 * RATE, np.float32)])
    assert not is_quiet(speech_in_silence)
    short = np.full(100, 1e-5, np.float32)
    assert is_quiet(short) and is_inaudible(short)
