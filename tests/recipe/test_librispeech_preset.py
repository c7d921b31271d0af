"""``run.sh --preset librispeech`` from data to the table, at a size for a CPU.

The script, the stages and the two YAMLs are those of the paper's size; weights, corpus
and the number of steps are tiny.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from recipe_helpers import RECIPE, write_chapter

pytest.importorskip("espnet2")

ROOT = RECIPE.parents[2]
SUBSETS = {
    "train-clean-100": 3,
    "train-clean-360": 3,
    "train-other-500": 3,
    **dict.fromkeys(("dev-clean", "dev-other", "test-clean", "test-other"), 2),
}
SYSTEMS = {
    "llama": "train_asr_whisper_llama3_8b",
    "llada": "train_asr_whisper_llada_8b",
}
EPOCHS, STEPS, WARM = 3, 3, 4


@pytest.fixture
def chat_llama(tiny_lm, tmp_path) -> Path:
    """tiny_lm with a chat template, as Llama 3's has one."""
    path = shutil.copytree(tiny_lm, tmp_path / "llama")
    file = path / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings["chat_template"] = "{{ messages[0]['content'] }}\n"
    file.write_text(json.dumps(settings))
    return path


@pytest.fixture
def recipe(tmp_path, chat_llama, tiny_llada, tiny_whisper) -> Path:
    """A copy of the recipe whose YAMLs of this preset name the tiny weights."""
    copy = tmp_path / "egs2/librispeech/asr_llada"
    made = shutil.ignore_patterns("data", "dump", "exp*", "conf", "mini", ".*")
    shutil.copytree(RECIPE, copy, ignore=made)
    shutil.copytree(RECIPE / "conf", copy / "conf")
    for system, lm in (("llama", chat_llama), ("llada", tiny_llada)):
        path = copy / f"conf/{SYSTEMS[system]}.yaml"
        config = yaml.safe_load(path.read_text())
        config["encoder_conf"]["whisper"] = str(tiny_whisper)
        config["decoder_conf"]["lm"] = str(lm)
        config["postencoder_conf"] |= {"hidden": 24, "heads": 4, "ffn": 48}
        schedule = {"warmup_steps": WARM, "total_steps": EPOCHS * STEPS}
        config["scheduler_conf"] |= schedule
        config |= {"max_epoch": EPOCHS, "num_iters_per_epoch": STEPS, "batch_size": 3}
        config |= {"keep_nbest_models": 2, "num_workers": 0, "log_interval": 1}
        path.write_text(yaml.safe_dump(config))
    for number, (subset, count) in enumerate(SUBSETS.items()):
        write_chapter(tmp_path / "corpora", subset, f"{number}-1", count, 0.6)
    return copy


@pytest.mark.slow
def test_both_systems_are_trained_averaged_and_decoded(recipe, tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    command = ["./run.sh", "--preset", "librispeech", "--ngpu", "0", "--nj", "1"]
    command += ["--gpu_inference", "false", "--test_sets", "test_clean"]
    command += ["--local_data_opts", "--partial true"]
    done = subprocess.run(
        command,
        cwd=recipe,
        env={**env, "LIBRISPEECH": str(tmp_path / "corpora")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert len(re.findall(r"trained .* parameters .*LoRA", done.stdout)) == 2
    for system, name in SYSTEMS.items():
        exp = recipe / f"exp/asr_whisper_{system}_librispeech"
        check_training(exp, yaml.safe_load((recipe / f"conf/{name}.yaml").read_text()))
        for log in exp.glob("*/test_clean/logdir/asr_inference.1.log"):
            model = f"--asr_model_file exp/{exp.name}/valid.acc.ave.pth"
            assert model in log.read_text().splitlines()[0]
    assert len([*recipe.glob("exp/*/*/test_clean/logdir/asr_inference.1.log")]) == 3
    table = (recipe / "exp/RESULTS.md").read_text()
    for name in ("Whisper-LLaMA", "Whisper-LLaDA diffusion", "LLaDA deliberation"):
        assert re.search(rf"^\| .*{name}[^|]*\| \d", table, re.MULTILINE), table


def check_training(exp: Path, given: dict) -> None:
    """Its data, the rate of each step, and the average of the best epochs."""
    config = yaml.safe_load((exp / "config.yaml").read_text())
    paths = [path for path, *_ in config["train_data_path_and_name_and_type"]]
    assert paths == ["dump/raw/train_960/wav.scp", "dump/raw/train_960/text"]
    listed = (exp.parents[1] / paths[0]).read_text().splitlines()
    assert len(listed) == sum(n for s, n in SUBSETS.items() if s.startswith("train"))
    log = (exp / "train.log").read_text()
    rates = [float(r) for r in re.findall(r"epoch:train:.*?optim0_lr0=([^,\s]+)", log)]
    first = given["scheduler_conf"]["warmup_start_lr"]
    top = given["optim_conf"]["lr"]
    assert len(rates) == EPOCHS * STEPS
    # ESPnet logs a step's rate when the scheduler has gone on.
    step = (top - first) / WARM
    warmed = [first + step * n for n in range(1, WARM)]
    assert rates[: WARM - 1] == pytest.approx(warmed, rel=2e-3)
    assert rates[WARM - 1 :] == sorted(rates[WARM - 1 :], reverse=True)
    assert rates[-1] == pytest.approx(given["scheduler_conf"]["min_lr"], rel=0.05)
    average = exp / "valid.acc.ave.pth"
    assert average.readlink() == Path("valid.acc.ave_2best.pth") and average.exists()
