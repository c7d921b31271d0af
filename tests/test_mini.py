"""The models inside the package: real weights, real speech."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import jiwer
import numpy as np
import pytest

from espnet_llada import Deliberator, Speech2Text
from espnet_llada.core.options import STRATEGIES
from espnet_llada.inference.loading import find_model, load_model
from espnet_llada.inference.options import PROFILES, job_options
from espnet_llada.inference.recognizer import Transcriber
from espnet_llada.io.audio.reading import load_audio
from espnet_llada.io.files import cache_dir
from espnet_llada.io.weights import MARKER
from espnet_llada.io.weights.assets import MINI

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


@pytest.fixture(scope="module")
def mini() -> tuple[Speech2Text, Deliberator]:
    """Both ways of the shipped LLaDA, in lower case."""
    case = {"output_case": "lower"}
    mini = Speech2Text.from_pretrained("mini", **case)
    return mini, Deliberator.from_pretrained("mini", **case)


def clips(every: bool = False) -> dict[Path, str]:
    """{audio file: transcript in lower case}, of some or of all."""
    found = {}
    for file in sorted(CORPUS.rglob("*.trans.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            utt_id, _, text = line.partition(" ")
            found[file.parent / f"{utt_id}.flac"] = text.lower()
    if every:
        return found
    chosen = list(found)[:: len(found) // CLIPS][:CLIPS]
    return {path: found[path] for path in chosen}


def test_mini_transcribes(mini):
    table = clips()
    assert len(table) == CLIPS
    found = [mini[0](path)[0][0] for path in table]
    texts = list(table.values())
    assert jiwer.wer(texts, found) < 0.3, found
    # With the audio of another utterance there is nothing to know a text by.
    assert jiwer.wer(texts, [*found[1:], found[0]]) > 0.8


def test_a_long_recording_s_transcript_is_corrected_piece_by_piece(mini, monkeypatch):
    table = clips()
    pieces = [load_audio(path) for path in table]
    monkeypatch.setattr(
        "espnet_llada.inference.recognizer.split_long", lambda *_: pieces
    )
    text = " ".join(table.values())
    wrong = text.replace(text.split()[3], "wrong", 1)
    assert wrong != text
    found, *_ = mini[1](np.concatenate(pieces), wrong)[0]
    assert "wrong" not in found.split()
    assert jiwer.wer(text, found) < 0.1, found


def test_mini_takes_every_strategy_by_its_name_alone():
    config, file = find_model("mini")
    model = load_model(config, file)
    for strategy in STRATEGIES:
        task = "deliberate" if strategy.startswith("deliberation") else "decode"
        for profile in PROFILES:
            given = {"strategy": strategy, "profile": profile}
            options = job_options(config, task, given)
            assert Transcriber(model, options).options.strategy == strategy


def test_what_is_said_three_times_comes_back_three_times(mini):
    """Whisper's decoder, teacher-forced, would rather stop repeating itself."""
    speech2text, deliberate = mini
    texts = clips(every=True)
    shortest = sorted(texts, key=lambda path: path.stat().st_size)[:3]
    pause = np.zeros(4800, np.float32)
    for path in shortest:
        waveform = load_audio(path)
        thrice = np.concatenate([waveform, pause, waveform, pause, waveform])
        once, repeated = speech2text(waveform)[0][0], " ".join([texts[path]] * 3)
        found = jiwer.process_words(" ".join([once] * 3), speech2text(thrice)[0][0])
        assert found.deletions == 0, found
        kept, *_ = deliberate(thrice, repeated)[0]
        assert jiwer.process_words(repeated, kept).deletions == 0, kept


def test_silence_behind_speech_and_by_itself_says_nothing(mini):
    path, text = next(iter(clips().items()))
    waveform, silence = load_audio(path), np.zeros(16_000 * 20, np.float32)
    noise = 1e-4 * np.random.default_rng(0).normal(size=16_000 * 3)
    speech2text, deliberate = mini
    llama = Speech2Text.from_pretrained("mini", "llama", output_case="lower")
    for run in (speech2text, llama):
        assert [run(quiet)[0][0] for quiet in (silence, noise)] == ["", ""]
        behind = run(np.concatenate([waveform, silence]))[0][0]
        assert jiwer.process_words(run(waveform)[0][0], behind).insertions == 0
    assert deliberate(silence, text)[0][0] == text
    assert deliberate(noise, text)[0][0] == text


def test_a_first_pass_that_the_lm_cannot_write_comes_back_word_for_word():
    path = next(iter(clips()))
    nothing = {"strategy": "deliberation_random", "mask_ratio": 0.0, "tail": 0}
    deliberate = Deliberator.from_pretrained("mini", **nothing)
    for text in ("WASN’T ill-disposed 007 CAFÉ", "THE EARLIEST CAFÉ 3.5 PRINTED"):
        assert deliberate(path, text)[0][0] == text
    for strategy in STRATEGIES:
        if strategy.startswith("deliberation"):
            run = Deliberator.from_pretrained("mini", strategy=strategy, mask_ratio=0)
            assert run(path, "a  dog")[0][0] == "a  dog"
    by_default = Deliberator.from_pretrained("mini")
    assert {"CAFÉ", "3.5"} <= {*by_default(path, "THE CAFÉ 3.5 PRINTED")[0][0].split()}


def test_a_first_pass_of_a_thousand_words_is_bounded_work(caplog):
    path = next(iter(clips()))
    text = " ".join(["SO IT GOES"] * 333)
    waveform = load_audio(path)[: 7 * 16_000]
    assert Deliberator.from_pretrained("mini")(waveform, text)[0][0] == text
    assert "more than can be spoken" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("system", ["llada", "llama"])
def test_every_way_in_gives_the_same_text(tmp_path, system):
    clip = min(clips(), key=lambda path: path.stat().st_size)
    config, file = find_model("mini", system)
    exp, data = tmp_path / "exp", tmp_path / "dump/raw/one"
    exp.mkdir()
    data.mkdir(parents=True)
    for source in config.parent.iterdir():
        shutil.copy(source, exp)
    (data / "wav.scp").write_text(f"{clip.stem} {clip}\n")
    (data / "text").write_text(f"{clip.stem} {clips()[clip].upper()}\n")
    decode = ["--data_path_and_name_and_type", f"{data}/wav.scp,speech,sound"]
    files = ["--asr_train_config", str(config), "--asr_model_file", str(file)]
    launcher = ["espnet_llada.run", "-m", "espnet2.bin.asr_inference", *decode]
    stage = "--stage 12 --stop_stage 12 --skip_train true --ngpu 0 --inference_nj 1"
    recipe = [*stage.split(), "--test_sets", "one", "--inference_tag", "decoded"]
    recipe += ["--asr_exp", str(exp), "--inference_asr_model", file.name]
    run = [
        ["espnet_llada.bin.cli", "transcribe", str(clip), "--system", system],
        [*launcher, *files, "--output_dir", "launched"],
        ["espnet_llada.bin.asr_inference", *decode, *files, "--output_dir", "ours"],
        ["espnet_llada.recipe", *recipe],
    ]
    if system == "llada":
        run.append([*launcher, "--model_tag", "mini", "--output_dir", "by_tag"])
    for command in run:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        if "transcribe" in command:
            said = [done.stdout]
    written = *tmp_path.glob("*/1best_recog/text"), exp / "decoded/one/text"
    said += [path.read_text() for path in written]
    speech2text = Speech2Text(config, file)
    named = Speech2Text.from_pretrained("mini", system)
    both = speech2text, named
    said += [f"{clip.stem} {one(clip)[0][0]}\n" for one in both]
    assert len(said) == len(run) + 2 and len(set(said)) == 1, said
    reference = clips()[clip].upper()
    assert jiwer.wer(reference, said[0].partition(" ")[2]) < 0.3
