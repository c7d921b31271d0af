"""Word times, confidences, formats and n-best lists of the shipped models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_mini import clips, pytestmark  # noqa: F401

from espnet_llada import Deliberator, Speech2Text
from espnet_llada.bin import cli
from espnet_llada.inference.words import Options, calibration
from espnet_llada.io.audio.reading import load_audio
from espnet_llada.io.schema import check_options
from espnet_llada.io.weights.assets import MINI


@pytest.fixture(scope="module")
def clip() -> Path:
    return min(clips(every=True), key=lambda path: path.stat().st_size)


@pytest.fixture(scope="module")
def mini() -> Speech2Text:
    return Speech2Text.from_pretrained("mini", word_times=True)


def test_times_follow_the_audio(mini, clip):
    """A known pause between two readings is found, and nothing lies in it."""
    once, pause = load_audio(clip), 2.0
    twice = np.concatenate([once, np.zeros(int(pause * 16_000), np.float32), once])
    h, both = mini(once)[0][3], mini(twice)[0][3]
    assert h.calibrated and [w.text for w in h.words] == h.text.split()
    times = [t for word in h.words for t in (word.start, word.end)]
    assert times == sorted(times) and 0 <= times[0] < times[-1] <= len(once) / 16_000
    assert all(0 <= w.confidence <= 1 and w.end > w.start for w in h.words)
    cut = mini(twice, long_form={"max_segment_seconds": len(once) / 16_000 + 1.5})
    lag, starts = len(once) / 16_000 + pause, [word.start for word in h.words]
    for again in (both, cut[0][3]):
        assert again.text == f"{h.text} {h.text}"
        second = [word.start - lag for word in again.words[len(h.words) :]]
        assert second == pytest.approx(starts, abs=0.2)
    assert mini(once, word_times=False)[0][3].words == ()


def test_a_wrong_word_is_less_sure(clip):
    """Of a first pass that is left as it is; its case and signs stay."""
    text = clips(every=True)[clip].split()
    wrong = " ".join(["Umbrella,", *text[1:]])
    run = Deliberator.from_pretrained("mini", word_times=True, mask_ratio=0.0)
    words = run(clip, wrong)[0][3].words
    # Calibrated is the model's own way alone.
    other = {"strategy": "random", "mask_ratio": 0.0}
    assert not run(clip, wrong, **other)[0][3].calibrated
    assert [word.text for word in words] == wrong.split()
    assert words[0].confidence < 0.5 < np.mean([w.confidence for w in words[1:]])


def test_calibrations_are_of_these_options():
    for system, tasks in (("llada", ("decode", "deliberate")), ("llama", ("decode",))):
        for task in tasks:
            found = calibration(MINI / system / "config.yaml", task)
            options = Options(**check_options(found, Options))
            assert options.calibrated and -0.5 < options.start < 0
            assert options.confidence([0.0, 0.0, 0.0]) > 0.9
            assert options.confidence([-5.0, -5.0, -5.0]) < 0.5


def test_formats_and_a_first_pass_with_times(capsys, clip, tmp_path):
    files = [str(clip), "--model", "mini"]
    assert cli.main(["transcribe", *files, "--format", "json", "--nbest", "3"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["calibrated"] and len(record.get("nbest", [])) <= 2
    folder = tmp_path / "subtitles"
    folder.mkdir()
    first = tmp_path / "first.ctm"
    text = record["text"].lower().split()
    first.write_text(
        "".join(f"{clip.stem} 1 {i / 10} 0.05 {word}\n" for i, word in enumerate(text))
    )
    given = ["deliberate", *files, "--first_pass", str(first)]
    assert cli.main([*given, "--format", "ctm"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    kept = [line for line in lines if line[4] in text]
    assert len(kept) > len(text) / 2
    for line in kept:
        assert float(line[2]) == pytest.approx(text.index(line[4]) / 10, abs=1e-6)
        assert line[3] == "0.050" and 0 <= float(line[5]) <= 1
    output = ["--format", "vtt", "--output", str(folder)]
    assert cli.main(["transcribe", *files, *output]) == 0
    (file,) = folder.iterdir()
    assert (
        file.name == f"{clip.stem}.vtt"
        and not (tmp_path / "subtitles.partial").exists()
    )
    assert file.read_text().startswith("WEBVTT\n\n00:00:0")
