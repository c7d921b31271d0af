"""The models inside the package: real weights, real speech."""

from __future__ import annotations

from pathlib import Path

import jiwer
import numpy as np
import pytest

from espnet_llada import Deliberator, Speech2Text
from espnet_llada.audio.io import load_audio
from espnet_llada.decode_file import make_options, model_options
from espnet_llada.loading import find_model, load_model
from espnet_llada.recognizer import Recognizer
from espnet_llada.sampler_options import PROFILES, STRATEGIES
from espnet_llada.weights import MARKER, cache_dir
from espnet_llada.weights.assets import MINI

WEIGHTS = MINI / "llada/model.safetensors"
CORPUS = (
    Path(__file__).parents[1]
    / "egs2/librispeech/asr_llada/mini/LibriSpeech/test-clean-mini"
)
CLIPS = 4
"""Real readings of the corpus, taken evenly from it."""

pytestmark = [
    pytest.mark.skipif(
        not WEIGHTS.is_file(),
        reason=f"NO MINI MODELS: {WEIGHTS} IS MISSING; pack them (local/pack_mini.py)",
    ),
    *(
        []
        if (cache_dir() / "whisper-tiny.en" / MARKER).is_file()
        else [pytest.mark.network]  # it is fetched then
    ),
]


def clips() -> dict[Path, str]:
    """{audio file: transcript in lower case}."""
    found = {}
    for file in sorted(CORPUS.rglob("*.trans.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            utt_id, _, text = line.partition(" ")
            found[file.parent / f"{utt_id}.flac"] = text.lower()
    chosen = list(found)[:: len(found) // CLIPS][:CLIPS]
    return {path: found[path] for path in chosen}


def test_mini_transcribes_what_it_hears():
    table = clips()
    assert len(table) == CLIPS
    speech2text = Speech2Text.from_pretrained("mini", output_case="lower")
    heard = [speech2text(path)[0][0] for path in table]
    texts = list(table.values())
    assert jiwer.wer(texts, heard) < 0.3, heard
    # With the audio of another utterance there is nothing to know a text by.
    assert jiwer.wer(texts, [*heard[1:], heard[0]]) > 0.8


def test_a_long_recording_s_transcript_is_corrected_piece_by_piece(monkeypatch):
    table = clips()
    pieces = [load_audio(path) for path in table]
    monkeypatch.setattr("espnet_llada.recognizer.split_long", lambda *_: pieces)
    text = " ".join(table.values())
    wrong = text.replace(text.split()[3], "wrong", 1)
    assert wrong != text
    deliberate = Deliberator.from_pretrained("mini", output_case="lower")
    found, *_ = deliberate(np.concatenate(pieces), wrong)[0]
    assert "wrong" not in found.split()
    assert jiwer.wer(text, found) < 0.1, found


def test_mini_takes_every_strategy_by_its_name_alone():
    config, file = find_model("mini")
    model = load_model(config, file)
    for strategy in STRATEGIES:
        task = "deliberate" if strategy.startswith("deliberation") else "decode"
        for profile in PROFILES:
            if (strategy, profile) != ("mask_ctc", "release"):
                given = {"strategy": strategy, "profile": profile}
                options = make_options({**model_options(config, task, given), **given})
                assert Recognizer(model, options).options.strategy == strategy
