"""A killed decoding job goes on; nj and batch size change nothing. Real files."""

from __future__ import annotations

import fcntl
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from espnet_llada.bin import asr_inference
from espnet_llada.inference.decode_dir import FILES
from espnet_llada.types import UserError

COUNT = 10
KEPT = [name for name in FILES if name != "seconds"]


def write_set(folder: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    scp = []
    for i in range(count):
        path = folder / f"utt{i:03d}.wav"
        samples = rng.normal(0, 0.1, int(rng.integers(4_000, 20_000)))
        soundfile.write(path, samples.astype(np.float32), 16_000)
        scp.append(f"{path.stem} {path}\n")
    (folder / "wav.scp").write_text("".join(scp))
    words = ("THE DOG", "A LOVELY VOICE", "", "IT WAS A DARK NIGHT")
    lines = [f"{line.split()[0]} {words[i % 4]}\n" for i, line in enumerate(scp)]
    (folder / "first").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("data"), COUNT)


def command(model_dir: Path, data: Path, out: Path, *extra: object) -> list[str]:
    system = "llama" if "--beam_size" in extra else "llada"
    options = {
        "data_path_and_name_and_type": f"{data}/wav.scp,speech,sound",
        "output_dir": out,
        "asr_train_config": model_dir / system / "config.yaml",
        "asr_model_file": model_dir / system / "valid.acc.ave.pth",
        "batch_size": 3,
        "canvas_length": 12,
        "steps": 4,
    }
    words = [word for k, v in options.items() for word in (f"--{k}", v)]
    return [str(word) for word in [*words, *extra]]


def content(out: Path, names=KEPT) -> dict[str, bytes]:
    return {name: (out / "1best_recog" / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def whole(model_dir, data, tmp_path_factory) -> Path:
    """What a job that nothing disturbs leaves."""
    out = tmp_path_factory.mktemp("whole")
    asr_inference.main(command(model_dir, data, out))
    return out


def test_whatever_a_kill_leaves_the_end_is_the_same(model_dir, data, whole, tmp_path):
    """Each file cut at a byte of its own; an update in place cut off before its end."""
    out, rng = tmp_path / "out", random.Random(0)
    for _ in range(12):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(whole, out)
        (out / "failed").unlink()
        for name in FILES:
            with open(out / "1best_recog" / name, "r+b") as f:
                f.truncate(rng.randrange(len(f.read()) + 1))
        if rng.random() < 0.3:
            (out / "1best_recog" / rng.choice(FILES)).unlink()
        asr_inference.main(command(model_dir, data, out))
        assert content(out) == content(whole)
        assert (out / "failed").read_bytes() == b""


def test_what_is_whole_is_kept(model_dir, data, whole, tmp_path, caplog):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    seconds = (out / "1best_recog/seconds").read_text()
    with open(out / "1best_recog/passes", "r+b") as f:
        f.truncate(len(b"".join(f.readlines()[:7])) + 3)  # 2 of 4 batches, and a bit
    caplog.set_level("INFO")
    asr_inference.main(command(model_dir, data, out))
    assert "resume: 6 of 10 utterances" in caplog.text
    assert "decoded 4 utterances of 10, 0 failed" in caplog.text
    assert caplog.text.count("speech length") == caplog.text.count("best hypo") == 4
    assert content(out) == content(whole)
    now = (out / "1best_recog/seconds").read_text()
    assert now.splitlines()[:6] == seconds.splitlines()[:6]
    assert now.splitlines()[6:] != seconds.splitlines()[6:]
    before = content(out, FILES)
    # Nothing is left: not a second of it.
    asr_inference.main(command(model_dir, data, out))
    assert "decoded 0 utterances of 10" in caplog.text
    assert content(out, FILES) == before
    asr_inference.main(command(model_dir, data, out, "--resume", "false"))
    assert content(out) == content(whole)
    assert content(out, FILES) != before


@pytest.mark.parametrize("change", ["options", "utterances", "asr_model_file"])
def test_another_job_is_not_continued(model_dir, data, whole, tmp_path, caplog, change):
    out, other = tmp_path / "out", tmp_path / "model_dir"
    shutil.copytree(whole, out)
    shutil.copytree(model_dir, other)
    extra: list[object] = []
    if change == "options":
        extra = ["--seed", 1, "--temperature", 1.0]
    elif change == "utterances":
        lines = (data / "wav.scp").read_text().splitlines(keepends=True)
        (tmp_path / "keys").write_text("".join(lines[:4]))
        extra = ["--key_file", tmp_path / "keys"]
    else:
        state = torch.load(other / "llada/valid.acc.ave.pth", weights_only=True)
        state = {
            k: v * 1.0 if k == "frozen_weights" else v * 1.5 for k, v in state.items()
        }
        torch.save(state, other / "llada/valid.acc.ave.pth")
    caplog.set_level("INFO")
    asr_inference.main(command(other, data, out, *extra))
    assert caplog.text.count(f"other {change} before; starting anew") == 1
    fresh = tmp_path / "fresh"
    asr_inference.main(command(other, data, fresh, *extra))
    assert content(out) == content(fresh)
    assert content(out) != content(whole)


def test_a_wrong_model_leaves_a_finished_job_alone(model_dir, data, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    before = content(out, FILES)
    with pytest.raises(UserError, match="no such checkpoint"):
        asr_inference.main(command(model_dir, data, out, "--asr_model_file", "no.pth"))
    assert content(out, FILES) == before


def test_what_failed_is_tried_again(model_dir, data, tmp_path, caplog):
    folder = write_set(tmp_path, 7)
    good = (folder / "utt001.wav").read_bytes()
    soundfile.write(folder / "utt001.wav", np.full(900, np.nan), 16_000, "FLOAT")
    out = tmp_path / "out"
    caplog.set_level("INFO")
    asr_inference.main(command(model_dir, folder, out))
    assert (out / "failed").read_text().startswith("utt001 ")
    # asr.sh's calculate_rtf.py asserts as many of the one as of the other.
    assert caplog.text.count("speech length") == caplog.text.count("best hypo") == 7
    (folder / "utt001.wav").write_bytes(good)
    asr_inference.main(command(model_dir, folder, out))
    assert "decoded 3 utterances of 7, 0 failed" in caplog.text  # its batch
    assert (out / "failed").read_text() == ""
    asr_inference.main(command(model_dir, folder, tmp_path / "fresh"))
    assert content(out) == content(tmp_path / "fresh")


def test_a_full_disk_in_the_middle(model_dir, data, tmp_path):
    out, whole, extra = tmp_path / "out", tmp_path / "whole", ("--canvas_length", 80)
    asr_inference.main(command(model_dir, data, whole, *extra))
    size = (whole / "1best_recog/token").stat().st_size
    assert size * 2 // 3 > (whole / "decoding.json").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size * 2 // 3, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write.*start again"):
            asr_inference.main(command(model_dir, data, out, *extra))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 3 <= (out / "1best_recog/token").read_bytes().count(b"\n") < COUNT
    asr_inference.main(command(model_dir, data, out, *extra))
    assert content(out) == content(whole)


def test_a_second_job_waits_for_the_first(model_dir, data, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    handle = os.open(out / "1best_recog", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    cmd = command(model_dir, data, out)
    second = threading.Thread(target=asr_inference.main, args=(cmd,))
    second.start()
    second.join(timeout=0.5)
    assert second.is_alive()
    os.close(handle)
    second.join(timeout=30)
    assert not second.is_alive()


@pytest.mark.parametrize(
    "extra",
    [
        ("--strategy", "diffusion"),
        pytest.param(
            ("--strategy", "semi_ar", "--num_blocks", 3), marks=pytest.mark.slow
        ),
        ("--strategy", "deliberation_random", "--mask_ratio", 0.5),
        ("--strategy", "diffusion", "--temperature", 1.0, "--seed", 3),
        pytest.param(
            ("--strategy", "deliberation_low_confidence", "--temperature", 0.7),
            marks=pytest.mark.slow,
        ),
        pytest.param(("--beam_size", 1), marks=pytest.mark.slow),
        ("--beam_size", 3),
    ],
)
def test_jobs_and_batches_change_nothing(model_dir, data, tmp_path, extra):
    """Scores nearly: a sum of float32 depends on the shape of the batch."""
    if "deliberation" in str(extra):
        extra = (*extra, "--first_pass", data / "first")
    lines = (data / "wav.scp").read_text().splitlines(keepends=True)
    found = []
    for nj, batch_size in ((1, 1), (1, 4), (3, 7), (3, 1)):
        merged: dict[str, list[str]] = {name: [] for name in KEPT}
        for job in range(nj):
            keys = tmp_path / f"keys.{nj}.{job}"
            keys.write_text("".join(lines[job * COUNT // nj : (job + 1) * COUNT // nj]))
            out = tmp_path / f"{nj}.{batch_size}.{job}"
            options = (*extra, "--batch_size", batch_size, "--key_file", keys)
            asr_inference.main(command(model_dir, data, out, *options))
            for name, value in content(out).items():
                merged[name] += value.decode().splitlines()
        scores = [float(line.split()[1]) for line in merged.pop("score")]
        found.append((merged, scores))
    assert [line.split()[0] for line in found[0][0]["text"]] == [
        line.split()[0] for line in lines
    ]
    for merged, scores in found[1:]:
        assert merged == found[0][0]
        assert scores == pytest.approx(found[0][1], abs=1.1e-3, rel=0)


def kill_and_finish(
    model_dir: Path, data: Path, out: Path, kills: int, seed: int
) -> int:
    """Start, kill -9 when some more lines are there, until a start ends by itself."""
    repo, rng, done = Path(__file__).resolve().parents[2], random.Random(seed), 0
    env = {**os.environ, "PYTHONPATH": str(repo)}
    cmd = [sys.executable, "-m", "espnet_llada.bin.asr_inference"]
    cmd += command(model_dir, data, out, "--steps", 12)
    text = out / "1best_recog/text"
    while True:
        have = text.read_bytes().count(b"\n") if text.exists() else 0
        wanted = have + rng.randrange(1, 8) if done < kills else 10**6
        process = subprocess.Popen(cmd, env=env, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            lines = text.read_bytes().count(b"\n") if text.exists() else 0
            if lines >= wanted:
                time.sleep(rng.random() * 0.05)
                process.kill()
            time.sleep(0.002)
        if process.wait() == 0:
            return done
        assert process.returncode == -9
        done += 1


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "count"), [(1, 30), (6, 60)])
def test_kill_9(model_dir, tmp_path, kills, count):
    data = write_set(tmp_path, count)
    assert kill_and_finish(model_dir, data, tmp_path / "out", kills, seed=count) >= 1
    asr_inference.main(command(model_dir, data, tmp_path / "whole", "--steps", 12))
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    identity = json.loads((tmp_path / "out/decoding.json").read_text())
    assert identity["options"]["steps"] == 12
