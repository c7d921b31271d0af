"""espnet-llada as a user types it: real files, and bad input of all kinds."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from espnet_llada.bin import cli
from espnet_llada.io.first_pass import read_first_pass
from espnet_llada.types import UserError


def run(capsys, *args: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command, in this process."""
    try:
        status = cli.main([str(a) for a in args])
    except UserError as e:
        assert "\n" not in str(e)
        return 2, capsys.readouterr().out, str(e)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_transcribe_prints_a_line_for_each_file(capsys, model_dir, speech):
    reverse = [str(p) for p in reversed(speech)]
    status, out, _ = run(capsys, "transcribe", *reverse, "--model", model_dir)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["utt0", "utt1", "utt2"]


def test_systems_strategies_and_output(capsys, model_dir, speech, tmp_path):
    text = tmp_path / "text"
    common = ("--model", model_dir, "--output", text)
    for extra in (
        ("--system", "llama", "--canvas_length", 6),
        ("--strategy", "semi_ar", "--num_blocks", 2, "--steps", 4),
    ):
        status, out, _ = run(capsys, "transcribe", *speech, *common, *extra)
        assert (status, out) == (0, "")
        assert len(text.read_text().splitlines()) == 3


def test_json_lines_have_tokens_and_confidences(capsys, model_dir, speech, tmp_path):
    common = (*speech, "--model", model_dir, "--steps", 3, "--canvas_length", 9)
    _, text, _ = run(capsys, "transcribe", *common)
    status, out, _ = run(capsys, "transcribe", *common, "--format", "json")
    records = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    lines = [f"{r['id']} {r['text']}".rstrip() for r in records]
    assert lines == text.splitlines()
    for record in records:
        keys = "id text tokens confidences calibrated passes seconds words segments"
        assert list(record) == keys.split() and record["calibrated"] is False
        assert [word["word"] for word in record["words"]] == record["text"].split()
        assert len(record["tokens"]) == len(record["confidences"])
        assert all(0 <= value <= 1 for value in record["confidences"])
        assert record["passes"] == 3
    file = tmp_path / "out.json"
    bad = tmp_path / "bad.wav"
    bad.touch()
    args = (bad, *common, "--format", "json", "--output", file)
    status, _, err = run(capsys, "transcribe", *args)
    assert status == 1 and "bad.wav: empty" in err, err
    assert file.read_text() == out
    # This model has no CTC.
    status, _, err = run(capsys, "transcribe", *common, "--format", "ctm")
    assert status == 2 and "ctm: no word times, which a model has by its CTC" in err
    odd = tmp_path / ";;a.flac"
    odd.write_bytes(speech[0].read_bytes())
    status, _, err = run(capsys, "transcribe", odd, *common, "--format", "ctm")
    assert status == 2 and ";;a.flac: in a CTM lines that begin with ;; are" in err
    status, _, err = run(capsys, "transcribe", *common, "--format", "srt")
    assert status == 2 and "srt: 3 recordings, a file holds one; name a dir" in err
    status, _, err = run(capsys, "transcribe", *common, "--nbest", 2)
    assert status == 2 and "nbest 2: --format text has one transcript" in err


def test_deliberate_and_score(capsys, model_dir, speech, tmp_path):
    first, text = tmp_path / "first", tmp_path / "text"
    first.write_text("utt0 THE DOG\nutt1 A FOX\nutt2 SHE SANG\nother X\n")
    for strategy in ("random", "low_confidence", "semi_ar"):
        extra = ("--strategy", strategy, "--steps", 3, "--mask_ratio", 0.4)
        args = ("--first_pass", first, *speech, "--model", model_dir, *extra)
        status, _, err = run(capsys, "deliberate", *args, "--output", text)
        assert status == 0, err
        assert len(text.read_text().splitlines()) == 3
    status, out, _ = run(capsys, "deliberate", *args, "--use_audio", "false")
    assert status == 0 and len(out.splitlines()) == 3
    extra = ("--strategy", "random", "--mask_ratio", 0)
    args = ("--first_pass", first, *speech, "--model", model_dir, *extra)
    run(capsys, "deliberate", *args, "--output", text)
    ref = tmp_path / "ref"
    ref.write_text("utt0 THE DOG\nutt1 A FOX\nutt2 SHE RANG\n")
    status, out, _ = run(capsys, "score", ref, text)
    assert out.splitlines()[-1] == "WER raw 16.67 norm 16.67 words 6 utts 3"


def test_a_first_pass_may_be_a_pipe(capsys, model_dir, speech):
    reader, writer = os.pipe()
    os.write(writer, b"utt0 THE DOG\n")
    os.close(writer)
    args = ("--first_pass", f"/dev/fd/{reader}", "--model", model_dir)
    extra = ("--strategy", "random", "--mask_ratio", 0)
    status, out, _ = run(capsys, "deliberate", speech[0], *args, *extra)
    assert (status, out) == (0, "utt0 THE DOG\n")
    os.close(reader)


FULL = "deliberation_random"


def test_a_model_decides_what_nobody_gives(capsys, model_dir, speech, tmp_path):
    """Command line, then --config, then the model's decode.yaml."""
    model = tmp_path / "model"
    shutil.copytree(model_dir, model)
    first, config = tmp_path / "first", tmp_path / "some.yaml"
    first.write_text("utt0 THE DOG\nutt1 A FOX\nutt2 SHE SANG\n")
    config.write_text(f"strategy: {FULL}\nmask_ratio: 1.0\n")  # as in conf/

    def deliberate(*args: object) -> str:
        args = ("--first_pass", first, "--model", model, *args)
        status, out, err = run(capsys, "deliberate", *speech, *args)
        assert status == 0, err
        return out

    changed = deliberate("--config", config)
    assert changed != first.read_text()
    assert deliberate("--strategy", FULL, "--mask_ratio", 1) == changed
    file = model / "llada/decode.yaml"
    file.write_text(f"deliberate: {{strategy: {FULL}, mask_ratio: 0}}\n")
    assert deliberate() == first.read_text()
    assert deliberate("--config", config) == changed
    assert deliberate("--mask_ratio", 1) == changed
    assert deliberate("--config", config, "--mask_ratio", 0) == first.read_text()


@pytest.mark.slow
def test_audio_of_other_kinds_is_taken_and_said_once(model_dir, speech, repo, tmp_path):
    stereo = np.random.default_rng(0).normal(0, 0.1, (48_000, 2))
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", stereo, 48_000)
    env = {**os.environ, "PYTHONPATH": str(repo)}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "espnet_llada.bin.cli", "transcribe"),
            *("--model", model_dir, tmp_path / "a.wav", tmp_path / "b.wav"),
        ],
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr.count("48000") == 1 and done.stderr.count("channels") == 1


def bad_files(folder: Path) -> dict[str, Path]:
    files = {n: folder / f"{n}.flac" for n in ("missing", "empty", "corrupt", "cut")}
    files["empty"].write_bytes(b"")
    files["corrupt"].write_text("this is not audio")
    soundfile.write(
        files["cut"], np.random.default_rng(0).normal(0, 0.1, 32_000), 16_000
    )
    files["cut"].write_bytes(files["cut"].read_bytes()[:20_000])
    return files


def test_bad_audio_is_named_and_the_others_are_done(
    capsys, model_dir, speech, tmp_path
):
    bad = bad_files(tmp_path)
    text = tmp_path / "text"
    args = ("--model", model_dir, "--output", text)
    status, _, err = run(capsys, "transcribe", *bad.values(), *speech, *args)
    assert status == 1
    lines = text.read_text().splitlines()  # an empty one would mean silence
    assert [line.split()[0] for line in lines] == ["utt0", "utt1", "utt2"]
    for path in bad.values():
        assert err.count(str(path)) == 1
    assert len(err.strip().splitlines()) == 4
    for path in bad.values():  # alone: nothing is written
        text.unlink(missing_ok=True)
        status, _, err = run(capsys, "transcribe", path, *args)
        assert status != 0 and str(path) in err
        assert not text.exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--mask_ratio", "1.5"], "mask_ratio: 1.5"),
        (["--mask_ratio", "x"], "mask_ratio.*'x'"),
        (["--steps", "0"], "steps: 0"),
        (["--steps", "1"], "steps: 1"),
        (["--num_blocks", "0"], "num_blocks: 0"),
        (["--strategy", "beam"], "beam"),
        (["--stepz", "4"], r"--stepz.*--steps"),
        (["--step", "4"], r"--step .*--steps"),
        (["--system", "llama"], "autoregressive"),
        (["--model", "nowhere"], "nowhere: no such model .*tags: .*mini"),
        (["--model", "mni"], r"mni: .*did you mean 'mini'"),
        (["--output", "no/such/dir/text"], "no/such/dir"),
        (["--first_pass", "nowhere"], "nowhere: cannot read"),
        (["--config", "nowhere.yaml"], r"nowhere\.yaml: cannot read"),
    ],
)
def test_bad_options_are_one_line(capsys, model_dir, speech, tmp_path, args, message):
    import re

    first = tmp_path / "first"
    first.write_text("utt0 THE DOG\nutt1 A FOX\nutt2 SHE SANG\n")
    given = ["--model", model_dir, "--first_pass", first, *args]
    status, out, err = run(capsys, "deliberate", *speech, *given)
    assert status == 2 and out == ""
    assert re.search(message, err), err


def test_first_pass_that_lacks_an_utterance(capsys, model_dir, speech, tmp_path):
    first = tmp_path / "first"
    first.write_text("utt0 THE DOG\nutt2\n")
    args = ("--first_pass", first, "--model", model_dir)
    status, _, err = run(capsys, "deliberate", *speech, *args)
    assert status == 2 and "'utt1'" in err and str(first) in err
    status, out, _ = run(capsys, "deliberate", speech[0], speech[2], *args)
    assert status == 0 and len(out.splitlines()) == 2  # utt2 is empty, not missing


def test_a_first_pass_is_given_once_and_comes_back_as_it_is(
    capsys, model_dir, speech, tmp_path
):
    line = "utt0 THE\u00a0DOG  10\u3000%\tA"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text").write_text(line + "\n", encoding="utf-8")
    args = ("--model", model_dir, "--strategy", "random", "--mask_ratio", 0)
    args = (speech[0], "--first_pass", tmp_path, *args)
    assert run(capsys, "deliberate", *args) == (0, line + "\n", "")
    (tmp_path / "two/text").write_text("utt0 THE FOX\n")
    status, _, err = run(capsys, "deliberate", *args)
    assert status == 2 and "two/text: another transcript of 'utt0' is in" in err


def test_a_space_in_a_file_s_name_does_not_end_its_id(capsys, model_dir, speech):
    spaced = speech[0].with_name("a  fine name.flac")
    spaced.write_bytes(speech[0].read_bytes())
    status, out, _ = run(capsys, "transcribe", spaced, "--model", model_dir)
    assert status == 0 and out.split()[0] == "a_fine_name"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--output", "{tmp}"), r"Is a directory\); name a file"),
        (("--batch_size", 0), "batch_size: 0 does not fit"),
        (("--device", "abacus"), "device abacus: .*name one"),
        (("--device", "cuda"), "device cuda: .*name one"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_decoded(
    capsys, model_dir, speech, tmp_path, more, message
):
    if more[-1] == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    more = [str(word).format(tmp=tmp_path) for word in more]
    status, out, err = run(capsys, "transcribe", *speech, "--model", model_dir, *more)
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert re.search(message, err), err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("features", "--config no.yaml --wav_scp no.scp --output {bad}"),
        ("convert", "--lm no --output {bad}"),
        ("summarize", "--ref_dir no --output {bad}/RESULTS.md a=no"),
        ("summarize", "--ref_dir no --output {written} a=no"),
        ("bench", "{rows} --data no --output {folders}"),
        ("sweep", "{rows} --data {data} --sets a --output {folders}"),
        ("sweep", "{rows} --data {data} --sets a --output {results}"),
        ("report", "{exp}"),
    ],
)
def test_outputs_are_checked_before_the_work(
    repo, model_dir, tmp_path, monkeypatch, command, words
):
    (tmp_path / "bad").touch()
    (tmp_path / "written").write_text("what I think of it\n")
    rows = {"rows": {"a": {"label": "A", "system": "llada"}}}
    (tmp_path / "rows").write_text(json.dumps(rows))
    for name in ("BENCH.md", "RESULTS.md"):
        (tmp_path / "folders" / name).mkdir(parents=True)
    for name in ("results/RESULTS.md", "exp/RESULTS.md"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("what I think of it\n")
    score = tmp_path / "exp/tag/set/score_wer"
    score.mkdir(parents=True)
    (score / "result.txt").touch()
    (tmp_path / "data/a").mkdir(parents=True)
    for name in ("wav.scp", "text"):
        (tmp_path / "data/a" / name).write_text("u no.flac\n")
    places = {path.name: path for path in tmp_path.iterdir()}
    more = ["--model", str(model_dir)] if "{rows}" in words else []
    before = sorted(tmp_path.rglob("*"))
    module = importlib.import_module(f"espnet_llada.bin.{command}")
    with pytest.raises(UserError, match=r"(cannot write it|not a generated file)"):
        module.main([*words.format(**places).split(), *more])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("sweep", "{rows} --sets {data}/a --data no --output o", "leads elsewhere"),
        ("sweep", "{rows} --sets ../a --data {data}/a --output o", "leads elsewhere"),
        ("publish", "--tag ../x llada=no", "--tag '../x': leads elsewhere"),
        (
            "features",
            "--config c --wav_scp {data}/a/wav.scp --output {data}/a",
            "reco",
        ),
        ("asr_inference", "{set} {set} --output_dir o", "expected one PATH,speech,"),
        ("asr_inference", "{set} --output_dir o --log_level loud", "log_level.*'LOUD'"),
    ],
)
def test_what_is_read_is_not_written(tmp_path, monkeypatch, command, words, message):
    monkeypatch.chdir(tmp_path)
    rows, data = tmp_path / "rows", tmp_path / "data"
    rows.write_text(json.dumps({"rows": {"a": {"label": "A", "system": "llada"}}}))
    (data / "a").mkdir(parents=True)
    for name in ("wav.scp", "text"):
        (data / "a" / name).write_text("u no.flac\n")
    given = f"--data_path_and_name_and_type {data}/a/wav.scp,speech,sound"
    words = words.format(rows=rows, data=data, set=given).split()
    if command == "asr_inference":
        words += ["--asr_train_config", "no", "--asr_model_file", "no"]
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    module = importlib.import_module(f"espnet_llada.bin.{command}")
    with pytest.raises(UserError, match=message):
        module.main(words)
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


def test_two_files_of_one_id_are_refused(capsys, model_dir, speech, tmp_path):
    (tmp_path / "x").mkdir()
    twin = tmp_path / "x/utt0.flac"
    twin.write_bytes(speech[0].read_bytes())
    status, _, err = run(capsys, "transcribe", speech[0], twin, "--model", model_dir)
    assert status == 2 and "share an id" in err


def test_ids_of_files_match_a_text_of_another_spelling(tmp_path):
    """macOS writes an accent as a character of its own into names of files."""
    (tmp_path / "first").write_text("caf\u00e9 THE DOG\n")
    files = cli._by_id([str(tmp_path / "cafe\u0301.flac")])
    assert files == {"caf\u00e9": str(tmp_path / "cafe\u0301.flac")}
    assert read_first_pass(tmp_path / "first", files) == {"caf\u00e9": "THE DOG"}
