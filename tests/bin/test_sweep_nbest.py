"""Rows over an n-best first pass, and what several canvases have said."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile

from espnet_llada.bin import asr_deliberate, cli, sweep
from espnet_llada.inference.loading import find_model
from espnet_llada.sweep.rows import read_sweep
from espnet_llada.types import UserError

ROWS = """
rows:
  beam: {system: llama, options: {canvas_length: 6, beam_size: 3, nbest: 3}}
  several:
    system: llada
    options: {canvas_length: 8, steps: 2, canvases: {number: 3, temperature: 2.0}}
  voted:
    system: llada
    options: {canvas_length: 8, steps: 2, word_times: true, canvases: {temperature: 2.0,
      combination: rover, alpha: 0.0}}
  over_each:
    system: llada
    first_pass: beam
    options: {strategy: deliberation_random, steps: 2, canvases: {first_passes: true}}
  rescored:
    system: llada
    first_pass: beam
    options: &rescored
      strategy: deliberation_random
      mask_ratio: 0.0
      use_audio: false
      nbest_rescoring: {pairs: 1}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    top, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    folder = top / "one"
    folder.mkdir()
    for i in range(2):
        samples = rng.normal(0, 0.1, 8_000 + 3_000 * i).astype(np.float32)
        soundfile.write(folder / f"u{i}.wav", samples, 16_000)
    (folder / "wav.scp").write_text(f"u0 {folder}/u0.wav\nu1 {folder}/u1.wav\n")
    (folder / "text").write_text("u0 THE QUICK BROWN FOX\nu1 THE LAZY DOG\n")
    return top


@pytest.fixture(scope="module")
def done(model_dir, data, tmp_path_factory):
    top = tmp_path_factory.mktemp("sweep")
    (top / "rows.yaml").write_text(ROWS)
    given = ["--model", str(model_dir), "--data", str(data), "--sets", "one"]
    sweep.main([str(top / "rows.yaml"), *given, "--output", str(top / "out")])
    return top / "out"


def texts(file):
    return dict(line.split(" ", 1) for line in file.read_text().splitlines())


def test_each_canvas_has_a_line_and_one_is_the_text(done):
    for row in ("several", "voted", "over_each"):
        text = texts(done / row / "one/text")
        lines = (done / row / "one/canvases.jsonl").read_text().splitlines()
        canvases = [json.loads(line) for line in lines]
        for utt in ("u0", "u1"):
            own = [c for c in canvases if c["id"] == utt]
            numbers = [c["canvas"] for c in own if c["canvas"] is not None]
            assert numbers == [*range(len(numbers))] and len(numbers) >= 2
            assert (row == "voted") == (len(numbers) < len(own)), "made of several"
            (chosen,) = [c["text"] for c in own if c["chosen"]]
            assert chosen == text[utt]
    assert not (done / "beam/one/canvases.jsonl").exists()


def test_a_text_of_the_list_is_chosen(done):
    job = done / "beam/one/logdir/output.1"
    lists = [texts(job / f"{n}best_recog/text") for n in (1, 2, 3)]
    for utt, text in texts(done / "rescored/one/text").items():
        assert text in [own.get(utt) for own in lists]
    passes = texts(done / "rescored/one/logdir/output.1/1best_recog/passes")
    assert passes == {"u0": "2", "u1": "2"}


def test_the_other_commands_take_the_list_too(done, model_dir, data, tmp_path):
    job = str(done / "beam/one/logdir/output.1")
    own = ["--nbest_rescoring.pairs", "1", "--first_pass", job, "--use_audio", "false"]
    own += ["--strategy", "random", "--mask_ratio", "0"]
    config, weights = find_model(model_dir, "llada")
    files = ["--asr_train_config", str(config), "--asr_model_file", str(weights)]
    scp = f"{data}/one/wav.scp,speech,sound"
    given = ["--data_path_and_name_and_type", scp, "--output_dir", str(tmp_path / "a")]
    asr_deliberate.main([*own, *files, *given])
    wanted = texts(done / "rescored/one/text")
    assert texts(tmp_path / "a/1best_recog/text") == wanted
    audio = [str(data / f"one/u{i}.wav") for i in (0, 1)]
    out = ["--output", str(tmp_path / "text"), "--model", str(model_dir)]
    assert cli.main(["deliberate", *own, *out, *audio]) == 0
    assert texts(tmp_path / "text") == wanted


def test_lists_need_a_row_that_writes_them(tmp_path):
    file = tmp_path / "rows.yaml"
    file.write_text(ROWS.replace(", nbest: 3", ""))
    with pytest.raises(UserError, match=r"over_each.*nbest: 2 or more"):
        read_sweep(file)
    file.write_text(
        ROWS.replace("steps: 2, canvases", "steps: 2, nbest: 3, canvases", 1)
    )
    with pytest.raises(UserError, match="nbest: a row has one transcript"):
        read_sweep(file)
