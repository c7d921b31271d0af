"""The projection by way of words."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from espnet_llada.adapter.words import TOKENS_FILE
from espnet_llada.decoder import LMDecoder
from espnet_llada.types import UserError

WIDTH = 16  # of tiny_whisper


@pytest.fixture
def lm(tiny_lm, tmp_path):
    """tiny_lm, whose last tokens are Whisper's 2 to 61."""
    path = shutil.copytree(tiny_lm, tmp_path / "lm")
    size = json.loads((path / "config.json").read_text())["vocab_size"]
    ids = [-1] * (size - 60) + list(range(2, 62))
    (path / TOKENS_FILE).write_text(json.dumps(ids))
    return path


@pytest.fixture
def decoder(lm, tiny_whisper) -> LMDecoder:
    torch.manual_seed(0)
    return build(lm, tiny_whisper).eval()


def build(lm, whisper, **options) -> LMDecoder:
    given = {"ctc": {"weight": 1.0}, "projection": "words", **options}
    return LMDecoder(
        WIDTH, "causal", lm=str(lm), chat_template=False, whisper=str(whisper), **given
    )


@torch.no_grad()
def test_a_word_that_is_heard_arrives_as_the_lms_embedding_of_it(decoder, tiny_whisper):
    words = load_file(tiny_whisper / "model.safetensors")["decoder.embed_tokens.weight"]
    size = decoder.lm.vocab_size
    decoder.ctc.blank.bias.fill_(-30.0)
    decoder.ctc.scale.fill_(1e4)
    audio = torch.stack([words[7], words[60]])[None]  # their own inner products win
    audio = audio / audio.norm(dim=-1, keepdim=True)
    heard = [size - 60 + 5, size - 60 + 58]
    assert decoder.draft(audio, torch.tensor([2]))[0] == [heard]
    projected = decoder.prefix(audio, torch.tensor([2])).embeds[0, -2:]
    torch.testing.assert_close(projected, decoder.lm.embedding.weight[heard])


@torch.no_grad()
def test_silence_is_nothing(decoder):
    decoder.ctc.blank.bias.fill_(60.0)
    assert decoder.project(torch.zeros(1, 3, WIDTH)).abs().max() < 1e-5


def test_words_are_frozen_and_what_is_trained_gets_gradients(decoder):
    audio = torch.randn(2, 5, WIDTH, requires_grad=True)
    decoder.project(audio).square().sum().backward()
    assert audio.grad.abs().sum() > 0
    assert decoder.projection.words.grad is None
    assert decoder.ctc.scale.grad.abs() > 0


def test_what_does_not_fit_is_refused(lm, tiny_lm, tiny_whisper):
    with pytest.raises(UserError, match="projection: 'word'; allowed: linear, words"):
        build(lm, tiny_whisper, projection="word")
    with pytest.raises(UserError, match="projection: words needs ctc"):
        build(lm, tiny_whisper, ctc=None)
    with pytest.raises(UserError, match=f"{TOKENS_FILE}: not readable"):
        build(tiny_lm, tiny_whisper)
    (lm / TOKENS_FILE).write_text("[3, 64]")
    with pytest.raises(UserError, match="do not fit vectors of width 16"):
        build(lm, tiny_whisper)
