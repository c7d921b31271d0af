"""The presets mini and core_mini and their _ci: sets, order of the trainings, sweep."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from recipe_helpers import (
    RECIPE,
    copy_scripts,
    run_script,
    write_audio,
    write_shim,
)

from espnet_llada.build import ExtensionConf
from espnet_llada.recipe.combine import combine, main
from espnet_llada.recipe.datadir import (
    Utterance,
    read_data_dir,
    read_table,
    write_data_dir,
)
from espnet_llada.types import UserError

SIZES = {"test_read": 16, "test_prompts": 75, "test_synth": 120, "dev_synth": 120}

CASES = """
    *"bin.cli sweep"* | *"bin.cli features"* | *"-m espnet_llada.bin.weights"*) ;;
    *"-m espnet_llada.recipe "*"--stage 1"[0-9]*) ;;
    *"local/make_bpe_lm.py"*) ;;
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A copy of the recipe's scripts next to the shipped corpus, with empty configs."""
    copy = tmp_path / "recipe"
    copy_scripts(copy)
    (copy / "mini").symlink_to(RECIPE / "mini")
    (copy / "conf").mkdir()
    return copy


def _run(recipe: Path, *command: str, **env: str) -> subprocess.CompletedProcess:
    return run_script(recipe, recipe.parent / "bin", *command, **env)


@pytest.fixture
def calls(recipe: Path) -> Path:
    """A file with what `python3` is called with from now on."""
    noted = recipe.parent / "calls"
    write_shim(recipe.parent / "bin", noted, CASES)
    return noted


def _runs(recipe: Path, preset: str = "mini") -> list[list[str]]:
    """Name, data, config and first tensors of each training."""
    script = ". local/train_mini.sh; "
    if preset.startswith("core"):
        script += f"suffix=; out=exp/{preset}; . local/core_mini.sh; "
    done = _run(recipe, "bash", "-c", f"{script} mini_runs")
    return [line.split() for line in done.stdout.splitlines()]


def write_set(path: Path, texts: dict[str, str], audio: Path | None = None) -> Path:
    """A data directory; its recordings are relative to where the tests run."""
    wav = str(audio or "wav.flac")
    write_data_dir(path, [Utterance(u, "s", wav, text) for u, text in texts.items()])
    return path


@pytest.fixture
def parts(tmp_path: Path, monkeypatch) -> tuple[Path, Path, Path]:
    """Two sets to train on, and one that is held out."""
    monkeypatch.chdir(tmp_path)
    write_audio(tmp_path / "wav.flac")
    write_audio(tmp_path / "speech" / "a.flac")
    one = write_set(
        tmp_path / "speech/x/one", {"a1": "YES", "a2": "NO"}, Path("a.flac")
    )
    two = write_set(tmp_path / "two", {"b1": "it  is", "b2": "IT WAS"})
    return one, two, write_set(tmp_path / "test", {"t1": "IT IS"})


def test_training_sets_are_combined_without_what_is_tested(parts, tmp_path):
    one, two, held_out = parts
    combine([one, two], [held_out], tmp_path / "all")
    data = read_data_dir(tmp_path / "all")
    texts = {utt: found.text for utt, found in data.items()}
    assert texts == {"a1": "YES", "a2": "NO", "b2": "IT WAS"}
    assert data["a1"].audio == str(tmp_path / "speech/a.flac")  # as seen from above
    assert data["b2"].audio == "wav.flac"


def test_what_cannot_be_combined_is_refused(parts, tmp_path):
    one, two, held_out = parts
    out = tmp_path / "all"
    with pytest.raises(UserError, match="'a1' is an id of another directory"):
        combine([one, one], [], out)
    with pytest.raises(UserError, match="no utterance is left"):
        combine([held_out], [held_out], out)
    for place in (two, held_out):
        with pytest.raises(UserError, match=r"is read from; name another --output"):
            combine([one, two], [held_out], place / "../" / place.name)
    (tmp_path / "speech/a.flac").unlink()
    with pytest.raises(UserError, match=r"one/wav\.scp: a\.flac: no such file"):
        combine([two, one], [], out)
    assert not out.exists()


def test_fewer_utterances_are_spread_over_all(parts, tmp_path):
    one, two, _ = parts
    argv = ["--directories", str(one), str(two), "--max_utts", "2"]
    main(["--output", str(tmp_path / "all"), *argv])
    assert list(read_table(tmp_path / "all" / "text")) == ["a1", "b1"]


def test_sets_of_the_mini_preset(recipe: Path, tmp_path: Path):
    spoken = recipe / "spoken"
    prompt = "ALL CIRCUITS ARE BUSY NOW"  # of test_prompts
    write_audio(tmp_path / "a.flac")
    write_set(spoken, {"a1": prompt, "a2": "NOT YET"}, tmp_path / "a.flac")
    names = "SYNTH", "FRESH", "LAST", "CORE"
    env = dict.fromkeys(names, "spoken")
    done = _run(recipe, "local/data.sh", "--preset", "mini", **env)
    assert done.returncode == 0, done.stderr
    texts = {p.parent.name: read_table(p) for p in (recipe / "data").glob("*/text")}
    assert texts.pop("train_synth") == {"a2": "NOT YET"}
    assert texts.pop("train_fresh") == {"a2": "NOT YET"}
    assert texts.pop("train_last") == {"a2": "NOT YET"}
    assert texts.pop("train_core") == {"a2": "NOT YET"}
    assert {name: len(text) for name, text in texts.items()} == SIZES
    assert prompt in texts["test_prompts"].values()
    every = [words for text in texts.values() for words in text.values()]
    assert len(set(every)) == len(every)


def test_shipped_weights_need_no_training_data(recipe: Path, calls: Path):
    argv = ["--stage", "12", "--rows", "llama x", "--sets", "test_read_ci"]
    for name in ("llama", "deliberation"):  # as if the sweep had written them
        text = recipe / "exp/mini_ci" / name / "test_read_ci/text"
        text.parent.mkdir(parents=True)
        text.write_text(f"lj-LJ001-0008 {name.upper()}\n")
    done = _run(recipe, "./run.sh", "--preset", "mini_ci", *argv)
    assert done.returncode == 0, done.stderr
    assert not list((recipe / "data").glob("train*"))
    for name in SIZES:
        assert len(read_table(recipe / f"dump/raw/{name}_ci/wav.scp")) == 8
    sweep = calls.read_text().splitlines()[-1]
    assert "sweep conf/sweep_mini.yaml --model mini --data dump/raw" in sweep
    assert "--sets test_read_ci --output exp/mini_ci --nj 2 --rows llama x" in sweep
    assert "first pass   LLAMA\n  deliberated  DELIBERATION" in done.stdout
    assert "exp/mini_ci/report.html" in done.stdout


@pytest.mark.parametrize("preset", ["mini_ci", "core_mini_ci"])
def test_the_trainings_follow_one_another(recipe: Path, calls: Path, preset: str):
    runs = _runs(recipe, preset)
    for _, _, config, *_ in runs:
        (recipe / config).touch()
    done = _run(recipe, "./run.sh", "--preset", preset, "--stop_stage", "11")
    assert done.returncode == 0, done.stderr
    assert len(read_table(recipe / "dump/raw/train_synth_ci/text")) == 8
    assert len(read_table(recipe / "dump/text/dev_synth_ci/text")) == 8
    lines = [x for x in calls.read_text().splitlines() if "--asr_config" in x]
    assert len(lines) == len(runs) >= 2
    counted, ready = set(), set()
    for line, (name, kind, config, tensors, *more) in zip(lines, runs, strict=True):
        assert f"--asr_config {config} --asr_exp exp/{preset}/models/{name} " in line
        assert f"--stage {11 if kind in counted else 10} --stop_stage 11" in line
        assert ("--feats_type text --train_set train_text_ci" in line) == (
            kind == "text"
        )
        for part in filter(lambda x: x != "-", tensors.split(",")):
            run, _, rest = part.partition(":")
            later = {*run.split("+")} - ready
            assert not later, f"{name} begins with {later}, which are trained later"
            checkpoint = rf"exp/{preset}/models/{run}/train\.total_count\.ave\.pth"
            if "+" in run:  # their mean, which is made just before
                checkpoint = re.escape(f"exp/{preset}/models/{run}.pth")
            assert re.search(f"{checkpoint}:{re.escape(rest)}[ ,]", line)
        assert f" {' '.join(more)} " in line
        counted.add(kind)
        ready.add(name)
    assert {"llama", "llada"} <= ready


def test_a_config_that_is_not_there_is_named_first(recipe: Path, calls: Path):
    done = _run(recipe, "./run.sh", "--preset", "mini")
    assert done.returncode == 2
    assert f"error: {_runs(recipe)[0][2]}: no such file" in done.stderr
    assert not (recipe / "data").exists()


def test_core_mini_without_its_models(recipe: Path, calls: Path):
    """None are shipped, and the mini models are others."""
    argv = ["--preset", "core_mini", "--stage", "12", "--sets", "test_read"]
    done = _run(recipe, "./run.sh", *argv)
    assert done.returncode == 2
    assert "error: exp/core_mini/models: no trained models; run" in done.stderr


def test_its_lm_is_in_the_place_of_the_configs(recipe: Path, calls: Path):
    for _, _, config, *_ in _runs(recipe, "core_mini_ci"):
        (recipe / config).touch()
    argv = ["--preset", "core_mini_ci", "--stop_stage", "11", "--expdir", "x"]
    done = _run(recipe, "./run.sh", *argv)
    assert done.returncode == 0, done.stderr
    lines = calls.read_text().splitlines()
    (made,) = (line for line in lines if "local/make_bpe_lm.py" in line)
    assert "--output x/core_mini_ci/lm" in made
    for line in lines:
        assert ("--asr_config" in line) == ("decoder_conf lm=x/core_mini_ci/lm" in line)


@pytest.mark.slow
@pytest.mark.network
def test_core_mini_ci(tmp_path: Path):
    """From nothing to the table, and nothing but the paper's parts in the models."""
    command = [str(RECIPE / "run.sh"), "--preset", "core_mini_ci", "--nj", "1"]
    command += ["--dumpdir", str(tmp_path / "dump"), "--expdir", str(tmp_path / "exp")]
    done = run_script(tmp_path, tmp_path, *command)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    out = tmp_path / "exp/core_mini_ci"
    table = (out / "RESULTS.md").read_text()
    for label in ("Whisper-LLaMA (greedy)", "4 steps", "masking of 30 %"):
        assert re.search(rf"^\| .*{re.escape(label)}", table, re.MULTILINE), table
    for system in ("llama", "llada"):
        config = yaml.safe_load((out / "models" / system / "config.yaml").read_text())
        assert config["postencoder"] == "window_qformer"
        (beyond,) = {f.name for f in fields(ExtensionConf)} & {*config["decoder_conf"]}
        assert beyond == "ctc"
