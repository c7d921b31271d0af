"""Batches of like durations, and audio that is read ahead of the decoder."""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest

from espnet_llada.inference.batches import Utterance, decode_all, like_durations
from espnet_llada.types import Hypothesis, UserError


def named(*ids: str) -> list[Utterance]:
    return [Utterance(utt, f"{utt}.wav") for utt in ids]


def test_like_durations_within_a_window():
    given = named(*(f"u{i}" for i in range(200)))
    samples = {u.utt_id: 16_000 + (i * 7919) % 997 for i, u in enumerate(given)}
    found = like_durations(given, samples, 2)
    assert {*found[:128]} == {*given[:128]} and {*found} == {*given}
    for window in (found[:128], found[128:]):
        lengths = [samples[u.utt_id] for u in window]
        assert lengths == sorted(lengths, reverse=True)
    assert like_durations(given, samples, 1) == given
    assert like_durations(given, {"u0": 1}, 2) == given


@pytest.fixture
def read(monkeypatch) -> dict[str, threading.Event]:
    """Set when an utterance's audio has been read; of ``bad`` it cannot be."""
    events = {name: threading.Event() for name in ("a", "b", "bad", "c", "d")}

    def load_audio(path: str) -> np.ndarray:
        name = path.removesuffix(".wav")
        events[name].set()
        if name == "bad":
            raise UserError("bad.wav: no audio")
        return np.ones(16_000, np.float32)

    monkeypatch.setattr("espnet_llada.io.audio.reading.load_audio", load_audio)
    return events


def test_the_next_batch_is_read_while_one_is_decoded(read, caplog):
    caplog.set_level("INFO")
    ahead = []

    def recognizer(waveforms, ids, transcripts):
        following = {"a": "bad", "c": "d"}.get(ids[0])
        ahead.append(following is None or read[following].wait(10))
        assert following != "bad" or not read["d"].is_set(), "one batch, not more"
        return [Hypothesis(utt) for utt in ids]

    outcomes = list(decode_all(recognizer, iter(named(*read)), 2))
    assert [o.utterance.utt_id for o in outcomes] == ["a", "b", "bad", "c", "d"]
    assert [o.error for o in outcomes] == [None, None, "bad.wav: no audio", None, None]
    assert ahead == [True] * 3
    assert re.search(r"waited for audio 0\.\d s of 0\.\d s \(\d", caplog.text)


def test_an_error_of_the_decoder_comes_through(read):
    class Broken(BaseException):
        pass

    def recognizer(waveforms, ids, transcripts):
        raise Broken

    with pytest.raises(Broken):
        list(decode_all(recognizer, named("a", "b", "c"), 1))
    assert not read["c"].is_set()
    assert list(decode_all(recognizer, [], 1)) == []
