"""local/synthesize.py: texts, plan, resume; with a tone in place of an engine."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recipe_helpers import LOCAL, local_script, snapshot

pytest.importorskip("inflect", reason="comes with ESPnet's environment")

TEXTS = ["The door is open, and nobody came.", "Call the office tomorrow."]
POOL = {
    name: [[f"{t[:-1]} {word}." for t in TEXTS for word in ("now", "then", "once")]]
    for name in ("books", "definitions", "dialogue", "prompts", "words")
}


@pytest.fixture
def script():
    return local_script("synthesize")


@pytest.fixture
def texts(script):
    return sys.modules["synthesis.texts"]


class Tone:
    """Stands in for an engine: length by text and speed, pitch by voice."""

    @staticmethod
    def voices():
        return ["low", "high"]

    def speak(self, text, voice, speed, seed):
        time = np.arange(int(0.06 * len(text) / speed * 24_000)) / 24_000
        tone = 0.3 * np.sin(2 * np.pi * (440 if voice == "high" else 220) * time)
        return tone.astype(np.float32), 24_000


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("“Mr. Smith’s dogs’ barking—loud!”", "MISTER SMITH'S DOGS BARKING LOUD"),
        (
            "In 1905 he paid $1,250 on the 3rd.",
            "IN NINETEEN OH FIVE HE PAID ONE THOUSAND TWO HUNDRED FIFTY DOLLARS "
            "ON THE THIRD",
        ),
        ("'Tis 50% well-known.", "'TIS FIFTY PERCENT WELL KNOWN"),
        ("Pi is 3.14, since 2000.", "PI IS THREE POINT ONE FOUR SINCE TWO THOUSAND"),
        ("Mrs. O'Neil said 'no' to Dr. May", "MISSUS O'NEIL SAID NO TO DOCTOR MAY"),
    ],
)
def test_texts_are_written_as_they_are_spoken(texts, written, words):
    assert texts.transcript(texts.spoken(written)) == words


@pytest.mark.parametrize("text", ["at 10:45", "CHAPTER XIV", "the café", "a [b]", "!"])
def test_texts_with_no_plain_reading_are_refused(texts, text):
    assert texts.spoken(text) is None


def test_excluded_transcripts_are_neither_repeated_nor_quoted(texts):
    excluded = texts.Excluded(["IS IN USE", "ONE TWO THREE FOUR FIVE SIX SEVEN"])
    kept = texts.usable(
        [
            "Is in use!",
            "It is in use.",
            "And two, three, four, five, six, seven.",
            "And three, four, five, six, seven.",
        ],
        excluded,
    )
    assert kept == ["It is in use.", "And three, four, five, six, seven."]


def test_prompts_are_speakable_and_the_same_each_time(texts):
    module = sys.modules["synthesis.prompts"]
    made = [module.prompts(["Ann", "Bob"], ["Lee"], count=300) for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 200
    assert all(texts.spoken(text) for text in made[0])


def test_held_out_books_are_not_read(texts, tmp_path, monkeypatch):
    folder = tmp_path / "package" / "gutenberg"
    folder.mkdir(parents=True)
    for name in ("austen-emma", "austen-sense", "chesterton-thursday"):
        (folder / f"{name}.txt").write_text("She went away. CHAPTER I\n\nHe came too.")
    monkeypatch.setattr(texts, "package", lambda _: tmp_path)
    assert list(texts.books()) == ["austen-emma"]


def test_no_voice_of_the_test_sets_is_planned(script):
    held_out = sys.modules["synthesis.engines"].HELD_OUT
    assert {"af_sky", "am_eric", "bf_lily", "bm_lewis"} <= set(held_out)
    for name, engine in script.ENGINES.items():
        assert engine.voices(), name
        assert not [v for v in engine.voices() if set(v.split("+")) & set(held_out)]


def test_a_plan_follows_from_engine_seed_and_number(script):
    plans = [script.plan("kokoro", n, 0, POOL) for n in range(40)]
    assert plans == [script.plan("kokoro", n, 0, POOL) for n in range(40)]
    assert plans[3] != script.plan("kokoro", 3, 1, POOL)
    assert len({p.voice for p in plans}) > 10
    assert len({p.name for p in plans}) == 40


def test_some_of_the_sources_alone(run, tmp_path):
    parts = {"all": [], "some": ["--sources", "words", "prompts"]}
    for name, options in parts.items():
        run(tmp_path / name, "--hours", "0.005", *options)
    meta = {n: (tmp_path / n / "meta.tsv").read_text().splitlines() for n in parts}
    rows = {n: [line.split("\t") for line in lines] for n, lines in meta.items()}
    assert {row[3] for row in rows["some"]} == {"words", "prompts"}
    ids = {n: {row[0] for row in rows[n]} for n in parts}
    assert not ids["all"] & ids["some"], "sets that are used together"


@pytest.fixture
def run(script, monkeypatch):
    """Runs the script in this process, with the tone and short shards."""
    monkeypatch.setitem(script.ENGINES, "tone", Tone)
    monkeypatch.setattr(script, "sources", lambda excluded: POOL)
    monkeypatch.setattr(script, "SHARD", 5)

    def call(output: Path, *options: str) -> None:
        common = ["--engine", "tone", "--output", str(output)]
        script._loaded.cache_clear()
        script.main([*common, *options])

    return call


def test_output_is_a_data_directory_that_repeats_and_grows(run, tmp_path):
    run(tmp_path / "a", "--hours", "0.003")
    first = snapshot(tmp_path / "a")
    text = (tmp_path / "a" / "text").read_text().splitlines()
    scp = dict(x.split() for x in (tmp_path / "a" / "wav.scp").read_text().splitlines())
    assert [x.split()[0] for x in text] == sorted(scp)
    assert all(re.fullmatch(r"\S+ [A-Z' ]+", line) for line in text)
    info = [soundfile.info(path) for path in scp.values()]
    assert {(i.samplerate, i.channels) for i in info} == {(16_000, 1)}
    assert 10.8 <= sum(i.duration for i in info) < 30
    meta = (tmp_path / "a" / "meta.tsv").read_text().splitlines()
    assert {len(line.split("\t")) for line in meta} == {6}

    run(tmp_path / "a", "--hours", "0.01")  # shards that exist are not made again
    grown = snapshot(tmp_path / "a")
    assert grown["text"] > first["text"] or len(grown["text"]) > len(first["text"])
    assert all(grown[k] == v for k, v in first.items() if k.startswith("shards/"))

    run(tmp_path / "b", "--hours", "0.01")
    again = snapshot(tmp_path / "b")
    audio = [k for k in grown if k.endswith((".flac", "/text"))]
    assert len(audio) > 10
    assert all(grown[k] == again[k] for k in audio)


def test_other_settings_and_bad_options_are_refused(run, script, tmp_path):
    run(tmp_path, "--hours", "0.001")
    with pytest.raises(script.UserError, match="other settings"):
        run(tmp_path, "--hours", "0.001", "--seed", "1")
    with pytest.raises(script.UserError, match="--hours"):
        run(tmp_path, "--hours", "0")
    with pytest.raises(script.UserError, match="Kaldi text"):
        run(tmp_path, "--hours", "1", "--exclude", str(tmp_path / "none"))


CHILD = """
    import sys, time
    sys.path[:0] = [{here!r}, {local!r}]
    import synthesize
    from test_synthesize import POOL, Tone

    class Slow(Tone):
        def speak(self, *args):
            time.sleep(0.02)
            return super().speak(*args)

    synthesize.ENGINES["tone"] = Slow
    synthesize.sources = lambda excluded: POOL
    synthesize.SHARD = 5
    options = ["--engine", "tone", "--hours", "0.01", "--output", sys.argv[1]]
    synthesize.main(options)
"""


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_result(run, tmp_path):
    program = textwrap.dedent(CHILD).format(
        here=str(Path(__file__).parent), local=str(LOCAL)
    )
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    child = subprocess.Popen([sys.executable, "-c", program, str(killed)])
    deadline = time.monotonic() + 60
    while not (killed / "shards" / "00001").exists():
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    before = len(list((killed / "shards").glob("[0-9]*")))

    run(killed, "--hours", "0.01")
    run(whole, "--hours", "0.01")
    resumed, expected = snapshot(killed), snapshot(whole)
    assert len(list((whole / "shards").iterdir())) > before
    assert sorted(resumed) == sorted(expected)
    for name, content in expected.items():
        if not name.endswith("wav.scp"):  # holds the folder's own name
            assert resumed[name] == content, name
    assert resumed["wav.scp"].count(b"\n") == expected["wav.scp"].count(b"\n")


def test_recording_is_simulated_within_bounds(script):
    acoustics = sys.modules["synthesis.acoustics"]
    clean = Tone().speak("x" * 40, "low", 1.0, 0)[0]
    made = [
        acoustics.record(clean, [clean] * 3, np.random.default_rng(i))
        for i in range(30)
    ]
    for sound in made:
        assert sound.dtype == np.float32
        assert 0.1 < np.abs(sound).max() <= 1
        assert len(clean) + 0.1 * 16_000 <= len(sound) <= len(clean) + 0.8 * 16_000
    # Pauses are silent without noise, and not with it: both kinds occur.
    pauses = [np.abs(sound[:500]).max() > 0 for sound in made]
    assert 5 < sum(pauses) < 28
