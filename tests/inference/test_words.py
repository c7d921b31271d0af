"""Words of a text that is written otherwise, and a calibration's options."""

from __future__ import annotations

import math

import pytest
import torch

from espnet_llada import Speech2Text
from espnet_llada.inference.words import (
    EncodeOnce,
    Options,
    calibration,
    carried,
    logits,
)
from espnet_llada.types import UserError, Word


def test_words_keep_their_times_in_another_form():
    """As of a first pass with words that the LM writes as two, or not at all."""
    found = [
        Word("the", 0.0, 0.1, 0.9, (0.0, 2.0), (-0.1, -0.2)),
        Word("ill", 0.1, 0.2, 0.8, (0.0, 2.0), (-0.3, -0.1)),
        Word("disposed", 0.2, 0.4, 0.7, (0.0, 2.0), (-0.1, -0.5)),
        Word("man", 0.5, 0.6, None, (0.0, 2.0)),
    ]
    texts = ["The", "ill-disposed", "...", "MAN"]
    shown = [["the"], ["ill", "disposed"], [], ["man"]]
    made = carried(found, texts, shown)
    assert [word.text for word in made] == texts
    spans = [(0.0, 0.1), (0.1, 0.4), (None, None), (0.5, 0.6)]
    assert [(word.start, word.end) for word in made] == spans
    assert made[1].confidence == 0.7 and made[1].evidence == (-0.3, -0.5)
    assert made[2].confidence is None and made[2].within == (0.0, 2.0)
    assert carried([], ["a"], [["a"]]) == (Word("a"),)


def test_a_confidence_is_a_logistic_function():
    assert logits([math.log(0.5), 0.0])[0] == pytest.approx(0.0)
    assert logits([0.0]) == pytest.approx([-x for x in logits([-1e9])])
    assert not Options(start=-0.2).calibrated
    assert Options().confidence([math.log(0.3), -9.0]) == pytest.approx(0.3)
    given = Options(bias=1.0, lm=0.0, ctc=2.0)
    half = given.confidence([-5.0, math.log(0.5)])
    assert half == pytest.approx(1 / (1 + math.exp(-1)))


def test_a_calibration_is_checked(model_dir, speech, tmp_path):
    config = tmp_path / "config.yaml"
    assert calibration(config, "decode") == {}
    file = tmp_path / "calibration.yaml"
    file.write_text("decode: {start: -0.2, bias: 2.0}\n")
    assert calibration(config, "decode") == {"start": -0.2, "bias": 2.0}
    assert calibration(config, "decode", times_alone=True) == {"start": -0.2}
    assert calibration(config, "deliberate") == {}
    for text, why in (("decod: {}", "unknown key 'decod'"), ("decode: 3", "decode: ")):
        file.write_text(text)
        with pytest.raises(UserError, match=why):
            calibration(config, "decode")
    with pytest.raises(UserError, match="lag"):
        Speech2Text.from_pretrained(model_dir, word_times={"lag": 1.0})


def test_without_a_ctc_there_are_words_and_no_times(model_dir, speech):
    h = Speech2Text.from_pretrained(model_dir, word_times=True)(speech[0])[0][3]
    assert [word.text for word in h.words] == h.text.split() and not h.calibrated
    assert all(w.start is None and 0 <= w.confidence <= 1 for w in h.words)
    assert all(word.within[0] == 0.0 for word in h.words)


def test_the_last_batch_is_encoded_once():
    calls = []

    def encode(speech, lengths):
        calls.append(len(speech))
        return speech * 2, lengths

    once, speech = EncodeOnce(encode), torch.ones(2, 3)
    for given in (speech, speech.clone(), speech[:1], speech[:1]):
        found, _ = once(given, torch.full((len(given),), 3))
        assert torch.equal(found, given * 2)
    assert calls == [2, 1]
