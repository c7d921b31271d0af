"""The presets paper and paper_ci: what is asked for, in which order, and refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from recipe_helpers import (
    RECIPE,
    ROOT,
    copy_scripts,
    run_script,
    write_chapter,
    write_shim,
)

from espnet_llada.baseline.whisper_decoder import WhisperDecoder
from espnet_llada.bin import convert
from espnet_llada.inference.loading import find_model, load_model
from espnet_llada.sweep.rows import read_sweep

SETS = ("test_clean", "test_other")

CASES = """
    *"bin.cli "*) ;;
    *"recipe.librispeech "*) [ -n "$REALLY" ] || exit 3; exec "{python}" "$@" ;;
""".replace("{python}", sys.executable)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A copy of the recipe's scripts next to the shipped corpus."""
    copy = tmp_path / "egs2/librispeech/asr_llada"
    copy_scripts(copy)
    for name in ("mini", "conf"):
        (copy / name).symlink_to((RECIPE / name).resolve())
    write_shim(tmp_path / "bin", tmp_path / "calls", CASES)
    (tmp_path / "x.pth").touch()
    return copy


def run(recipe: Path, *options: str, **env: str) -> subprocess.CompletedProcess:
    top = recipe.parents[2]
    names = {"RELEASE": f"{top}/x.pth", "WHISPER": "w", "LLADA": "l", "LIBRISPEECH": ""}
    command = "./run.sh", "--preset", "paper", *options
    return run_script(recipe, top / "bin", *command, **{**names, **env})


def calls(recipe: Path, what: str) -> list[str]:
    lines = (recipe.parents[2] / "calls").read_text().splitlines()
    return [line.strip() for line in lines if what in line]


@pytest.fixture
def corpus(recipe: Path) -> dict[str, str]:
    """A LibriSpeech of these two subsets, prepared by stages 1 to 4."""
    top = recipe.parents[2]
    for name in SETS:
        write_chapter(top / "corpus", name.replace("_", "-"), "7-1", 2)
    env = {"LIBRISPEECH": str(top / "corpus"), "REALLY": "yes"}
    partial = ["--local_data_opts", "--partial true"]
    done = run(recipe, "--stop_stage", "4", *partial, **env)
    assert done.returncode == 0, done.stderr
    return env


@pytest.mark.parametrize(
    ("options", "env", "message"),
    [
        ([], {"RELEASE": "/no.pth"}, "RELEASE=/no.pth: no such file; .*Diffusion-ASR"),
        ([], {"LLAMA": "/no"}, "LLAMA=/no: no config.yaml in it"),
        ([], {"FIRST_PASS": "/no"}, "FIRST_PASS=/no: no such file; name a Kaldi text"),
        (["--first_pass", "llama"], {}, "--first_pass llama: whose"),
        (["--ngpu", "all"], {}, "--ngpu all: expected a number"),
        (["--sets", "train_960"], {}, "--sets train_960: expected test_clean"),
    ],
)
def test_refused_before_anything_is_fetched(recipe, options, env, message):
    done = run(recipe, *options, **env)
    assert done.returncode == 2
    assert re.search(f"^error: {message}", done.stderr, re.MULTILINE)
    assert not (recipe / "downloads").exists() and not (recipe / "exp").exists()


def test_only_the_evaluation_sets_are_fetched(recipe):
    run(recipe, "--sets", "test_clean dev_other")
    (call,) = calls(recipe, "recipe.librispeech")
    words = call.split()
    assert words[-2:] == ["test_clean=test-clean", "dev_other=dev-other"]
    assert "--root downloads --download true" in call and "train" not in call


def test_a_set_that_lacks_utterances(recipe, corpus):
    shutil.rmtree(recipe / "dump")
    done = run(recipe, **corpus)
    assert done.returncode == 2
    assert "test-clean: 2 utterances, LibriSpeech's has 2620" in done.stderr


def test_the_order_of_things(recipe, corpus):
    """Converted once; Whisper's first pass; every row over it, on each GPU."""
    done = run(recipe, "--ngpu", "2", **corpus)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (recipe / "dump/raw").iterdir()} == {*SETS}
    converted, first, rows = calls(recipe, "bin.cli ")
    assert converted.endswith(
        f"--release {recipe.parents[2]}/x.pth --whisper w --lm l --dtype bfloat16 "
        "--output exp/paper/models/llada"
    )
    where = "--model exp/paper/models --data dump/raw --sets test_clean test_other "
    assert where in first and where in rows
    assert "--rows whisper --device cuda --shards 2 --nj 2" in first
    assert "--rows !llama --first_pass exp/paper/whisper --device cuda" in rows


def test_other_first_passes(recipe, corpus):
    top = recipe.parents[2]
    (top / "llama").mkdir()
    (top / "llama/config.yaml").touch()
    llama = {**corpus, "LLAMA": str(top / "llama")}
    options = ["--stage", "12", "--rows", "plain_text", "--ngpu", "0"]
    assert run(recipe, *options, **llama).returncode != 0  # not converted
    (recipe / "exp/paper/models").mkdir(parents=True)
    run(recipe, *options, **llama)
    first, rows = calls(recipe, "bin.cli sweep")[-2:]
    assert "--rows llama --device cpu" in first
    assert "--rows first_pass plain_text --first_pass exp/paper/llama" in rows
    assert (recipe / "exp/paper/models/llama").resolve() == (top / "llama").resolve()
    run(recipe, *options, FIRST_PASS=str(top / "x.pth"), **corpus)
    assert f"--first_pass {top}/x.pth" in calls(recipe, "bin.cli sweep")[-1]
    assert "!llama" in calls(recipe, "bin.cli sweep")[-1]
    assert not (recipe / "exp/paper/models/llama").exists()


def test_jobs_of_a_scheduler(recipe, corpus):
    """In a checkout: shards as an array, then the merge, on a GPU each."""
    (recipe / "asr.sh").touch()
    (recipe / "utils").mkdir()
    (recipe / "utils/parse_options.sh").touch()
    runner = recipe / "utils/slurm.pl"
    runner.write_text('#!/bin/bash\necho "$*" >> runs\n')
    runner.chmod(0o755)
    shutil.copy(
        runner, recipe.parents[2] / "bin/sclite"
    )  # run.sh only asks whether it is there
    options = ["--stage", "10", "--ngpu", "1", "--inference_nj", "4"]
    done = run(recipe, *options, cmd_backend="slurm", **corpus)
    assert done.returncode == 0, done.stderr
    runs = (recipe / "runs").read_text().splitlines()
    assert len(runs) == 4
    assert runs[0].startswith("--gpu 1 JOB=1:4 exp/paper/log/sweep.JOB.log python3 -m")
    assert runs[0].endswith("--rows whisper --device cuda --shards 4 --shard JOB")
    assert runs[1].startswith("--gpu 1 exp/paper/log/merge.log python3 -m")
    assert runs[1].endswith("--shards 4") and runs[3].endswith("--shards 4")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """What local/make_tiny_paper.py makes."""
    top = tmp_path_factory.mktemp("tiny_paper")
    (top / "text").write_text("a THE QUICK BROWN FOX\nb IT WAS A DARK NIGHT\n")
    command = [sys.executable, RECIPE / "local/make_tiny_paper.py"]
    command += ["--output", top / "weights", "--text", top / "text"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=RECIPE, env=env, check=True)
    return top / "weights"


def test_random_weights_in_the_published_formats(weights, tmp_path):
    names = {"whisper": weights / "whisper-large-v3"}
    names |= {"lm": weights / "LLaDA-8B-Instruct", "output": tmp_path / "llada"}
    command = [str(word) for k, v in names.items() for word in (f"--{k}", v)]
    release = ["--release", str(weights / "checkpoint_best.pth")]
    convert.main([*release, *command])
    for place, system in ((tmp_path, "llada"), (weights / "whisper_llama", "llama")):
        model = load_model(*find_model(place, system))
        assert model.decoder.tokenizer.prompt("Transcribe the audio:", True)
    wave = np.random.default_rng(0).normal(0, 0.1, 30_000).astype(np.float32)
    (found,) = WhisperDecoder(names["whisper"])([wave], ["a"])
    assert found.text and found.passes > 2


@pytest.mark.slow
def test_paper_ci(tmp_path):
    """Some rows, from nothing to the table; killed on the way and started again."""
    out = tmp_path / "exp/paper_ci"
    keep = ["release_diffusion_steps8", "low_confidence_mask30", "fast_steps4"]
    command = [RECIPE / "run.sh", "--preset", "paper_ci", "--rows"]
    command += [f"llama whisper release_diffusion_steps64 {' '.join(keep)}"]
    command += ["--dumpdir", tmp_path / "dump", "--expdir", tmp_path / "exp"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tables = (out / "RESULTS.md").read_text()
    published = tables.partition("## Published and measured")[2]
    assert (
        "| 2.82 |" in published and "| 5.79 |" in published and "| 5.63 |" in published
    )
    assert {r["set"] for r in json.loads((out / "results.json").read_text())} >= {*SETS}
    assert 'id="published"' in (out / "report.html").read_text()
    for row in keep:
        lines = (out / row / "test_clean/text").read_text().splitlines()
        assert len(lines) == 4
    times = {p: p.stat().st_mtime_ns for p in out.glob("*/*/text")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert "up to date, nothing written" in done.stdout
    assert times == {p: p.stat().st_mtime_ns for p in times}


def test_rows_of_the_sweep_are_those_of_the_preset():
    """run.sh names these keys."""
    keys = {row.key for row in read_sweep(ROOT / "conf/sweep_paper.yaml").rows}
    assert {"first_pass", "whisper", "llama"} <= keys
