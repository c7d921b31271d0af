"""Utterances that cannot be used are skipped, named once and counted."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("espnet2")

from train_helpers import distributed, job, make_data, train_command


def write(path: Path, samples: np.ndarray) -> None:
    soundfile.write(path, samples.astype(np.float32), 16_000, "FLOAT")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2_000])


DAMAGE = {
    "utt007": (truncate, "truncated or corrupt"),
    "utt019": (lambda p: p.write_bytes(b"no audio"), "not readable as audio"),
    "utt050": (lambda p: write(p, np.zeros(0)), "holds no samples"),
    "utt051": (lambda p: write(p, np.zeros(31 * 16_000)), "31.00 s long"),
    "utt120": (lambda p: write(p, np.full(9_000, np.nan)), "NaN or infinite"),
    "utt121": (Path.unlink, "no such audio file"),
}


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("valid") / "data", 4)


def test_statistics_leave_unusable_utterances_out(
    trainings, valid, tiny_config, tmp_path
):
    """Six of 600 are 1 %, and no more."""
    data = make_data(tmp_path / "data", 600, seconds=0.05)
    for utt_id, (damage, _) in DAMAGE.items():
        damage(data / f"{utt_id}.wav")
    config = {**tiny_config, "batch_size": 2, "num_workers": 1}
    # A part of the keys, as one of several jobs of stage 10 has them.
    keys = (data / "wav.scp").read_text().splitlines(keepends=True)[:130]
    (data / "keys.scp").write_text("".join(keys))
    cmd = train_command(tmp_path, data, config, valid, collect_stats="true")
    cmd = [word.replace(f"{data}/shape", f"{data}/keys.scp") for word in cmd]
    assert trainings.run(job(tmp_path, cmd)) == [0], log_of(tmp_path)
    log = log_of(tmp_path)
    assert "wav.scp: 6 of 600 utterances left out" in log
    for utt_id, (_, reason) in DAMAGE.items():
        lines = [x for x in log.splitlines() if f"'{utt_id}' is left out" in x]
        assert len(lines) == 1, utt_id
        assert reason in lines[0] and str(data / f"{utt_id}.wav") in lines[0]
    expected = {line.split()[0] for line in keys} - DAMAGE.keys()
    for name in ("speech_shape", "text_shape"):
        lines = (tmp_path / "out/train" / name).read_text().splitlines()
        assert {line.split()[0] for line in lines} == expected


def log_of(exp: Path, name: str = "train.log") -> str:
    return (exp / name).read_text()


@pytest.fixture(scope="module")
def steady(tiny_config) -> dict:
    """Every step is the gradient itself, with nothing random about it."""
    lora = {"r": 2, "alpha": 4, "dropout": 0.0}
    return {
        **tiny_config,
        "decoder_conf": {**tiny_config["decoder_conf"], "lora": lora},
        "postencoder_conf": {**tiny_config["postencoder_conf"], "dropout": 0.0},
        "optim": "sgd",
        "optim_conf": {"lr": 1e-3, "momentum": 0.0},
        "max_epoch": 2,
        "batch_size": 2,
        "num_iters_per_epoch": 50,
    }


@pytest.mark.slow
def test_training_skips_and_processes_stay_in_step(trainings, valid, steady, tmp_path):
    """With rows of a batch on two processes, one of them has an empty batch."""
    data = make_data(tmp_path / "data", 100, seconds=0.05)
    truncate(data / "utt042.wav")
    one, two = tmp_path / "one", tmp_path / "two"
    jobs = distributed(two, train_command(two, data, steady, valid))
    cmd = train_command(one, data, {**steady, "num_workers": 2}, valid)
    assert trainings.run(job(one, cmd), *jobs) == [0] * 3, log_of(one)
    for log in (log_of(one), log_of(two, "rank0.log")):
        for epoch in (1, 2):
            assert f"{epoch}epoch:train: 1 of 100 utterances left out" in log
            assert f"{epoch}epoch:valid: 0 of 4 utterances left out" in log
        (named,) = (x for x in log.splitlines() if "'utt042' is left out" in x)
        assert str(data / "utt042.wav") in named
    states = [torch.load(exp / "out/2epoch.pth") for exp in (one, two)]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_more_than_one_percent_is_an_error(
    trainings, valid, steady, tmp_path, processes
):
    data = make_data(tmp_path / "data", 100, seconds=0.05)
    for number in (7, 42, 70):
        truncate(data / f"utt{number:03}.wav")
    cmd = train_command(tmp_path, data, steady, valid)
    jobs = [job(tmp_path, cmd, "rank0.log")]
    if processes == 2:
        jobs = distributed(tmp_path, cmd)
    assert trainings.run(*jobs) == [2] * processes
    lines = {log_of(tmp_path, j["log"]).splitlines()[-1] for j in jobs}
    assert len(lines) == 1
    assert re.search(
        r"^error: .*wav.scp: 2 of 100 utterances cannot be used, which is above 1%: "
        r"utt\d+ \(.*truncated.*\); utt\d+ \(.*\); repair or remove them$",
        lines.pop(),
    )
    assert not (tmp_path / "out/checkpoint.pth").exists()
