from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recipe_helpers import RECIPE

ROOT = RECIPE.parents[2]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A copy of the recipe's scripts beside the shipped corpus."""
    made = shutil.ignore_patterns("data", "dump", "exp*", "conf", "mini", ".*")
    copy = tmp_path / "egs2" / "librispeech" / "asr_llada"
    shutil.copytree(RECIPE, copy, ignore=made)
    (copy / "mini").symlink_to(RECIPE / "mini")
    return copy


def _run(recipe: Path, *command: str, **env: str) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=recipe,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_has_an_example(recipe: Path):
    done = _run(recipe, "./run.sh", "--help")
    assert done.returncode == 0
    assert "Examples:" in done.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--preset", "huge"], "unknown --preset huge"),
        (["--stage", "x"], "--stage x: expected a number"),
        (["--stage"], "--stage: its value is missing"),
        (["demo"], "'demo': expected an option"),
        (["--stop_stage", "5", "--asr_tag", "a"], "--asr_tag: for one system"),
        (["--stop_stage", "5", "--stpo", "1"], "unknown option --stpo"),
    ],
)
def test_refusals(recipe: Path, argv: list[str], message: str):
    done = _run(recipe, "./run.sh", *argv)
    assert done.returncode == 2
    assert f"error: {message}" in done.stderr


def test_a_python_without_the_packages_is_named(recipe: Path, tmp_path: Path):
    bare = tmp_path / "bin"
    bare.mkdir()
    (bare / "python3").symlink_to("/bin/false")
    done = _run(recipe, "./run.sh", PATH=f"{bare}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 2
    assert f"error: {bare}/python3 lacks espnet_llada" in done.stderr


def test_data_stages_of_the_ci_preset(recipe: Path):
    done = _run(recipe, "./run.sh", "--preset", "ci", "--stop-stage", "5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Stage 3:") == 1  # the later steps have nothing to do
    for name in ("train_mini_ci", "dev_mini_ci", "test_clean_mini_ci"):
        lines = (recipe / "dump" / "raw" / name / "wav.scp").read_text().splitlines()
        assert len(lines) == 8


def test_librispeech_goes_through_the_same_script(recipe: Path, tmp_path: Path):
    root = tmp_path / "corpora" / "LibriSpeech"
    root.mkdir(parents=True)
    parts = "train-clean-100 train-clean-360 train-other-500".split()
    parts += "dev-clean dev-other test-clean test-other".split()
    for number, part in enumerate(parts):
        folder = root / part / str(number) / "1"
        folder.mkdir(parents=True)
        (folder / f"{number}-1-0000.flac").write_bytes(b"x")
        (folder / f"{number}-1.trans.txt").write_text(f"{number}-1-0000 A\n")
    argv = ["local/data.sh", "--preset", "librispeech"]
    done = _run(recipe, *argv, LIBRISPEECH=str(root.parent))
    assert done.returncode == 0, done.stderr
    sizes = {
        p.parent.name: len(p.read_text().splitlines())
        for p in (recipe / "data").glob("*/text")
    }
    combined = {"train_960": 3, "dev": 2}
    assert sizes == combined | dict.fromkeys(
        ("dev_clean", "dev_other", "test_clean", "test_other"), 1
    )


def test_librispeech_unset(recipe: Path):
    done = _run(recipe, "local/data.sh", "--preset", "librispeech", LIBRISPEECH="")
    assert done.returncode == 2
    assert done.stderr.startswith("error: set LIBRISPEECH in db.sh")


def test_a_checkout_gets_asr_sh(recipe: Path):
    """Beside asr.sh and its utils, the stages are asr.sh's, with the same options."""
    (recipe / "utils").mkdir()
    (recipe / "utils" / "parse_options.sh").touch()
    (recipe / "asr.sh").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (recipe / "asr.sh").chmod(0o755)
    done = _run(recipe, "./run.sh", "--stop_stage", "5", "--nj", "7")
    assert done.returncode == 0, done.stderr
    argv = done.stdout.splitlines()
    assert argv[argv.index("--python") + 1] == "python3 -m espnet_llada.run"
    assert argv[argv.index("--train_set") + 1] == "train_mini"
    assert argv[len(argv) - argv[::-1].index("--nj")] == "7"
