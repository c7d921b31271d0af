"""Training that is killed, split over processes, or fed what it cannot use."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

pytest.importorskip("espnet2")

from train_helpers import (
    distributed,
    end_state,
    job,
    make_data,
    train_command,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("robust") / "data", 7)


@pytest.fixture(scope="module")
def kill_config(tiny_config) -> dict:
    """All that lives over epochs: dropout, momentum, a rate, a rest of accum_grad."""
    decoder = {
        **tiny_config["decoder_conf"],
        "lora": {"r": 2, "alpha": 4, "dropout": 0.3},
    }
    return {
        **tiny_config,
        "decoder_conf": decoder,
        "optim_conf": {"lr": 1e-2},
        "scheduler": "warmuplr",
        "scheduler_conf": {"warmup_steps": 5},
        "batch_size": 2,
        "accum_grad": 2,
        "num_iters_per_epoch": 3,
        "max_epoch": 4,
        "keep_nbest_models": [1, 2],
        "nbest_averaging_interval": 2,
        "best_model_criterion": [["valid", "acc", "max"], ["train", "loss", "min"]],
    }


@pytest.fixture(scope="module")
def uninterrupted(trainings, data, kill_config, tmp_path_factory) -> Path:
    exp = tmp_path_factory.mktemp("whole")
    assert trainings.run(job(exp, train_command(exp, data, kill_config))) == [0], (
        exp / "train.log"
    ).read_text()[-3000:]
    return exp


def assert_same_end(exp: Path, whole: Path) -> None:
    files, tensors = end_state(exp / "out")
    expected_files, expected = end_state(whole / "out")
    assert files == expected_files
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensors[name], tensor), name


@pytest.mark.parametrize(
    "last_file", ["2epoch.pth", pytest.param("4epoch.pth", marks=pytest.mark.slow)]
)
def test_a_kill_between_two_files_of_an_epoch_changes_nothing(
    trainings, data, kill_config, uninterrupted, tmp_path, last_file
):
    cmd = train_command(tmp_path, data, kill_config)
    (code,) = trainings.run(job(tmp_path, cmd, die_before=(last_file, 1)))
    assert code == -signal.SIGKILL
    assert not (tmp_path / "out" / last_file).exists()
    assert (tmp_path / "out/checkpoint.pth").exists()
    assert trainings.run(job(tmp_path, cmd)) == [0]
    assert_same_end(tmp_path, uninterrupted)


@pytest.mark.slow
def test_a_kill_before_any_change_of_a_file_changes_nothing(
    trainings, data, kill_config, uninterrupted, tmp_path
):
    """Every single one of them, each in a training of its own."""
    for count in range(1, 200):
        exp = tmp_path / str(count)
        cmd = train_command(exp, data, kill_config)
        (code,) = trainings.run(job(exp, cmd, die_before=("", count)))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert trainings.run(job(exp, cmd)) == [0]
        assert_same_end(exp, uninterrupted)
    assert 40 < count < 199


@pytest.mark.slow
def test_five_kills_at_random_moments_change_nothing(
    trainings, data, kill_config, tmp_path
):
    """One training, killed five times from outside, is resumed to its end."""
    config = {**kill_config, "max_epoch": 30}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert trainings.run(job(whole, train_command(whole, data, config))) == [0]
    cmd = train_command(killed, data, config)
    moments = random.Random(20260101)
    for number in range(5):
        log = killed / f"{number}.log"
        with ThreadPoolExecutor() as pool:
            codes = pool.submit(trainings.run, job(killed, cmd, log.name))
            wait_for_epochs(log, moments.randint(2, 4))
            time.sleep(moments.uniform(0.0, 0.2))
            pid = re.search(r"^pid (\d+)$", log.read_text(), re.MULTILINE)[1]
            os.kill(int(pid), signal.SIGKILL)
        assert codes.result() == [-signal.SIGKILL]
    assert trainings.run(job(killed, cmd)) == [0]
    assert_same_end(killed, whole)
    assert "was resumed" in (killed / "4.log").read_text()


def wait_for_epochs(log: Path, count: int) -> None:
    """Until so many epochs have been started by the process that writes ``log``."""
    deadline = time.monotonic() + 120
    while not log.exists() or log.read_text().count("epoch started") < count:
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("decoder", "loss"),
    [
        ("llada", "llada"),
        pytest.param("llada", "release", marks=pytest.mark.slow),
        pytest.param("llama", "llada", marks=pytest.mark.slow),
    ],
)
def test_two_processes_compute_the_loss_and_gradient_of_one(
    trainings, data, tiny_config, tmp_path, decoder, loss
):
    rate = 0.1
    lora = {"r": 2, "alpha": 4, "dropout": 0.0}
    config = {
        **tiny_config,
        "decoder": decoder,
        "decoder_conf": {**tiny_config["decoder_conf"], "lora": lora, "loss": loss},
        "postencoder_conf": {**tiny_config["postencoder_conf"], "dropout": 0.0},
        "batch_size": 8,
        "optim": "sgd",
        "optim_conf": {"lr": rate, "momentum": 0.0},
        "grad_clip": 1e9,
    }
    one, two = tmp_path / "one", tmp_path / "two"
    jobs = distributed(two, train_command(two, data, config))
    assert trainings.run(job(one, train_command(one, data, config)), *jobs) == [0] * 3
    stats = []
    states = []
    for exp in (one, two):
        content = torch.load(exp / "out/checkpoint.pth", weights_only=False)
        stats.append(content["reporter"]["stats"][1])
        states.append(content["model"])
    for phase in ("train", "valid"):
        for key in ("loss", "acc"):
            got, expected = (s[phase][key] for s in reversed(stats))
            assert got == pytest.approx(expected, rel=1e-5), (phase, key)
    assert stats[0]["train"]["loss"] > 1
    norm = stats[0]["train"]["grad_norm"]
    for name, tensor in states[0].items():
        error = (states[1][name] - tensor).abs().max() / rate
        assert error <= 1e-5 * norm, name


@pytest.mark.slow
def test_a_resumed_distributed_training_changes_nothing(
    trainings, data, kill_config, tmp_path
):
    config = {**kill_config, "max_epoch": 2}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    jobs = distributed(whole, train_command(whole, data, config))
    assert trainings.run(*jobs) == [0, 0]
    jobs = distributed(killed, train_command(killed, data, config))
    jobs[0]["die_before"] = ("1epoch.pth", 1)
    assert trainings.run(*jobs)[0] == -signal.SIGKILL
    jobs = distributed(killed, train_command(killed, data, config))
    assert trainings.run(*jobs) == [0, 0]
    assert_same_end(killed, whole)


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_loss_that_is_no_number_stops_with_the_utterance(
    trainings, data, tiny_config, tmp_path, processes
):
    """It happens to one process; the others must not wait for it."""
    cmd = train_command(tmp_path, data, {**tiny_config, "batch_size": 3})
    assert trainings.run(job(tmp_path, cmd)) == [0]
    before = (tmp_path / "out/checkpoint.pth").read_bytes()
    cmd += ["--max_epoch", "2"]
    jobs = [job(tmp_path, cmd, "rank0.log")]
    if processes == 2:
        jobs = distributed(tmp_path, cmd)
    begin = time.monotonic()
    assert trainings.run(*({**j, "poison": "utt005"} for j in jobs)) == [2] * processes
    assert time.monotonic() - begin < 60
    logs = [Path(j["log"]).read_text().splitlines() for j in jobs]
    assert len({log[-1] for log in logs}) == 1
    assert re.search(
        r"^error: .*out: stopped in epoch 2, train iteration [12]: the loss is NaN or "
        r"infinite for utterances utt005; ",
        logs[0][-1],
    )
    assert (tmp_path / "out/checkpoint.pth").read_bytes() == before
    assert not (tmp_path / "out/2epoch.pth").exists()


def test_only_the_bad_row_is_named(tiny_config, monkeypatch):
    import espnet_llada
    from espnet_llada.espnet import distributed
    from espnet_llada.espnet.inference import build_with_espnet
    from espnet_llada.espnet.model import NonFiniteLoss

    espnet_llada.register()
    from espnet2.tasks.asr import ASRTask

    args = ASRTask.get_parser().parse_args(["--output_dir", "x", "--token_list", "x"])
    model = build_with_espnet({**vars(args), **tiny_config})
    speech, lengths = torch.randn(3, 8_000) * 0.1, torch.full((3,), 8_000)
    speech[1, 100] = torch.nan
    text = torch.tensor([[3, 4, 5]] * 3), torch.full((3,), 3)
    batch = (speech, lengths, *text)
    with pytest.raises(NonFiniteLoss, match=r"utterances bad$"):
        for _ in range(20):  # a canvas may have no masked position
            model(*batch, utt_id=["good", "bad", "fine"])
    with pytest.raises(NonFiniteLoss, match=r"utterances 1$"):
        for _ in range(20):
            model(*batch)
    speech[1] = 0
    loss, stats, weight = model(*batch, stand_in=True)
    loss.backward()
    assert float(loss.detach()) == float(stats["acc"]) == 0
    assert 0 < float(weight) < 1e-5
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and not p.grad.any() for p in trained)
    # In step with other processes, acc is that of all of them.
    monkeypatch.setattr(distributed, "total", lambda *counts: (3.0, 4.0, 0))
    _, stats, _ = model(*batch, seeds=torch.arange(3))
    assert float(stats["acc"]) == 0.75


def test_a_full_disk_ends_in_one_line_and_leaves_the_old_files(
    trainings, data, tiny_config, tmp_path
):
    """At once in a resume; where a picture, and where a checkpoint has no room."""
    exp, plots = tmp_path / "exp", tmp_path / "plots"
    cmd = train_command(exp, data, tiny_config)
    assert trainings.run(job(exp, cmd)) == [0]
    old = {f: f.read_bytes() for f in (exp / "out").iterdir()}
    jobs = [
        job(exp, [*cmd, "--max_epoch", "2"], "../1", largest=60_000),
        job(exp, [*cmd, "--output_dir", f"{exp}/new"], "../2", largest=60_000),
        job(plots, train_command(plots, data, tiny_config), "../3", largest=20_000),
    ]
    jobs[2]["cmd"] += ["--use_matplotlib", "true"]
    assert trainings.run(*jobs) == [2, 2, 2]
    assert old == {f: f.read_bytes() for f in (exp / "out").iterdir()}
    assert not (exp / "new/checkpoint.pth").exists()
    refused = "File too large; free some space; --resume true goes on from"
    for log, words in {
        "1": f"error: {exp}/out: {refused}",
        "2": f"error: {exp}/new/checkpoint.pth: writing failed",
        "3": f"error: {plots}/out: {refused}",
    }.items():
        text = (tmp_path / log).read_text()
        assert text.splitlines()[-1].startswith(words), text
        assert "Traceback" not in text
