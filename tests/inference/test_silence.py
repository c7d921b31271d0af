"""Where nothing is spoken nothing is written, and a first pass stays."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from espnet_llada.extensions.posterior_prefix.ctc import Windows
from espnet_llada.extensions.silence import is_inaudible, is_quiet, speaking

from espnet_llada.build import WhisperLLM
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.recognizer import Recognizer
from espnet_llada.io.audio.reading import split_long

RATE = 16_000
TEXT = "the quick brown fox"
RANDOM = np.random.default_rng(0)


def noise(level: float, seconds: float = 1.0) -> np.ndarray:
    return (level * RANDOM.normal(size=int(RATE * seconds))).astype(np.float32)


@pytest.fixture(scope="module", params=["with a CTC", "without"])
def llada(tiny_config, request) -> WhisperLLM:
    torch.manual_seed(0)
    config = copy.deepcopy(tiny_config)
    if request.param == "with a CTC":
        config["decoder_conf"]["ctc"] = {"weight": 0.1}
    return WhisperLLM.from_config(config)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 31.0])
def test_digital_silence_has_no_words_and_keeps_its_first_pass(llada, seconds):
    silence = np.zeros(int(RATE * seconds), np.float32)
    dither = RANDOM.integers(-1, 2, len(silence)).astype(np.float32) / 32768
    speech = noise(0.1)
    batch, ids = [silence, speech, dither], ["a", "b", "c"]
    run = Recognizer(llada, SamplerOptions(steps=3, canvas_length=8))
    found = run(batch, ids)
    assert [bool(h.text) for h in found] == [False, True, False]
    assert [h.passes for h in found] == [0, 3, 0]
    (alone,) = run([speech], ["b"])
    assert found[1].token_ids == alone.token_ids
    options = SamplerOptions("deliberation_random", steps=3, mask_ratio=1.0)
    over = Recognizer(llada, options)(batch, ids, [TEXT] * 3)
    assert over[0].text == over[2].text == TEXT != over[1].text
    assert [h.passes for h in over] == [0, 3, 0]


def test_a_piece_of_silence_adds_nothing(llada):
    """8 s of speech and 16 of silence, in pieces of 12 at most: one has words."""
    recording = np.concatenate([noise(0.1, 8), np.zeros(16 * RATE, np.float32)])
    options = SamplerOptions(steps=2, canvas_length=6, longest_piece=12.0)
    pieces = split_long(recording, 12.0)
    (whole,) = Recognizer(llada, options)([recording], ["a"])
    (first,) = Recognizer(llada, options)(pieces[:1], ["a"])
    assert len(pieces) > 1 and not any(piece.any() for piece in pieces[1:])
    assert whole.text == first.text != "" and whole.passes == first.passes


def test_quiet_is_judged_by_the_ctc(tiny_config, monkeypatch):
    torch.manual_seed(0)
    config = copy.deepcopy(tiny_config)
    config["decoder_conf"]["ctc"] = {"weight": 0.1}
    run = Recognizer(WhisperLLM.from_config(config), SamplerOptions(steps=2))
    batch = [noise(3e-4), noise(0.1)]
    name = "espnet_llada.core.recognizer.speaking"
    monkeypatch.setattr(name, lambda windows: windows.lengths < 0)
    assert [h.passes for h in run(batch, ["a", "b"])] == [0, 2]
    monkeypatch.setattr(name, lambda windows: windows.lengths > 0)
    assert [h.passes for h in run(batch, ["a", "b"])] == [2, 2]


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


def test_padding_does_not_speak():
    blank = torch.tensor([[0.99, 0.05, 0.99], [0.99, 0.99, 0.01]]).log()
    none = torch.zeros(2, 3)
    windows = Windows(
        none.long(), none, blank, none.bool(), none[:0], torch.tensor([3, 2])
    )
    assert speaking(windows).tolist() == [True, False]
