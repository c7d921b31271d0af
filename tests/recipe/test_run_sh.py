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
    """A copy of the recipe's scripts next to the shipped corpus."""
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
        (["--stage", "1" * 20], f"--stage {'1' * 20}: expected a number"),
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


def test_a_number_with_zeros_before_it_is_decimal(recipe: Path):
    done = _run(recipe, "./run.sh", "--stage", "010", "--stop_stage", "09")
    assert (done.returncode, done.stderr) == (0, "")
    assert "finished" not in done.stdout  # no stage is from 10 to 9


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
    argv = ["local/data.sh", "--preset", "librispeech", "--check", "none"]
    argv += ["--librispeech", str(root.parent)]
    done = _run(recipe, *argv)
    assert done.returncode == 2
    assert "1 utterances, LibriSpeech's has 28539" in done.stderr
    done = _run(recipe, *argv, "--partial", "true")
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
    assert done.stderr.startswith("error: no LibriSpeech: set LIBRISPEECH in db.sh")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "root"),
    [(["--download", "true"], ""), ([], "downloads")],
    ids=["option", "db.sh"],
)
def test_librispeech_is_fetched_when_asked(recipe: Path, argv: list[str], root: str):
    url = "http://127.0.0.1:9"  # nobody listens there
    argv = ["local/data.sh", "--preset", "librispeech", *argv, "--download_url", url]
    done = _run(recipe, *argv, LIBRISPEECH=root, no_proxy="127.0.0.1")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{url}/train-clean-100.tar.gz" in line or "GB are needed here" in line


@pytest.fixture
def template(recipe: Path) -> Path:
    """TEMPLATE/asr1 of an ESPnet checkout; its asr.sh prints what it is given."""
    template = recipe.parents[1] / "TEMPLATE" / "asr1"
    for name in ("scripts", "pyscripts", "steps", "utils"):
        (template / name).mkdir(parents=True)
    (template / "utils" / "parse_options.sh").touch()
    script = (
        'printf "%s\\n" "$@"; . ./path.sh; . ./cmd.sh; echo "$PYTHONPATH $cuda_cmd"\n'
    )
    (template / "asr.sh").write_text(f"#!/usr/bin/env bash\n{script}")
    (template / "asr.sh").chmod(0o755)
    return template


def test_a_checkout_gets_asr_sh(recipe: Path, template: Path):
    """Where TEMPLATE is, the stages are its asr.sh's, with the same options."""
    done = _run(recipe, "./run.sh", "--stop_stage", "5", "--nj", "7")
    assert done.returncode == 0, done.stderr
    *argv, last = done.stdout.splitlines()
    assert argv[argv.index("--python") + 1] == "python3 -m espnet_llada.run"
    assert argv[argv.index("--train_set") + 1] == "train_mini"
    assert argv[len(argv) - argv[::-1].index("--nj")] == "7"
    for name in ("asr.sh", "scripts", "pyscripts", "steps", "utils"):
        assert (recipe / name).readlink() == Path("../../TEMPLATE/asr1") / name
    # The checkout's espnet2 goes before an installed one.
    assert Path(last.split(":")[0]).resolve() == recipe.parents[2]
    assert last.endswith(" run.pl")


def test_a_recipe_that_is_linked_into_a_checkout(
    recipe: Path, template: Path, tmp_path: Path
):
    elsewhere = tmp_path / "espnet_llada" / "recipe"
    elsewhere.parent.mkdir()
    recipe.rename(elsewhere)
    recipe.symlink_to(elsewhere)
    argv = [f"{recipe}/run.sh", "--stop_stage", "5"]
    done = _run(tmp_path, *argv, cmd_backend="slurm")
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "asr.sh").readlink() == template / "asr.sh"
    last = done.stdout.splitlines()[-1]
    assert Path(last.split(":")[0]) == template.parents[2]
    assert last.endswith(" slurm.pl")


def test_what_asr_sh_lacks_is_said_before_it_runs(recipe: Path, template: Path):
    (template / "utils" / "parse_options.sh").unlink()
    done = _run(recipe, "./run.sh", "--stop_stage", "5")
    assert done.returncode == 2
    assert "error: asr.sh is here, but not Kaldi's utils" in done.stderr
    assert "--python" not in done.stdout


def test_unknown_job_runner(recipe: Path):
    done = _run(recipe, "./run.sh", cmd_backend="slrum")
    assert done.returncode == 2
    assert "error: cmd.sh: unknown cmd_backend=slrum; expected local" in done.stderr
