"""A sweep in shards: on several devices, by a cluster's jobs, killed on the way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from espnet_llada.bin import sweep
from espnet_llada.sweep import systems
from espnet_llada.types import LoadOptions, UserError

ROWS = """
rows:
  given: {label: another system, system: text}
  llama: {label: AR, system: llama, options: {canvas_length: 6, batch_size: 2}}
  steps: {system: llada, options: {canvas_length: 8, steps: 3, batch_size: 2}}
  random:
    system: llada
    first_pass: llama
    options: {strategy: deliberation_random, mask_ratio: 0.6, steps: 2, batch_size: 3}
  over_given:
    system: llada
    first_pass: given
    options: {strategy: deliberation_low_confidence, mask_ratio: 0.6, steps: 2}
"""
ENTRIES = ("given", "llama", "steps", "random", "over_given")
SECONDS = (1.4, 0.5, 2.2, 0.6, 1.9, 0.5, 1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "one"
    folder.mkdir()
    rng, lines = np.random.default_rng(0), {"wav.scp": "", "text": ""}
    for i, seconds in enumerate(SECONDS):
        samples = rng.normal(0, 0.1, int(16_000 * seconds)).astype(np.float32)
        soundfile.write(folder / f"u{i}.wav", samples, 16_000)
        lines["wav.scp"] += f"u{i} {folder}/u{i}.wav\n"
        lines["text"] += f"u{i} THE QUICK BROWN FOX\n"
    for name, content in lines.items():
        (folder / name).write_text(content)
    return folder.parent


@pytest.fixture(scope="module")
def command(data, model_dir, tmp_path_factory):
    top = tmp_path_factory.mktemp("conf")
    (top / "rows.yaml").write_text(ROWS)
    (top / "first").write_text("".join(f"u{i} THE DOG\n" for i in range(len(SECONDS))))

    def build(output: Path, *more: str) -> list[str]:
        where = ["--model", str(model_dir), "--data", str(data), "--sets", "one"]
        where += ["--output", str(output), "--first_pass", str(top / "first")]
        return [str(top / "rows.yaml"), *where, *more]

    return build


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory) -> dict[str, str]:
    """The transcripts of one process, of batches in the order of the file."""
    out = tmp_path_factory.mktemp("whole")
    sweep.main(command(out))
    return texts(out)


def texts(out: Path) -> dict[str, str]:
    return {row: (out / row / "one/text").read_text() for row in ENTRIES}


def test_shards_as_jobs_of_a_cluster(command, whole, tmp_path, capsys):
    out = tmp_path / "out"
    for number in (3, 1, 2):
        sweep.main(command(out, "--shards", "3", "--shard", str(number)))
        assert not (out / "RESULTS.md").exists()
        assert not (out / "steps/one/text").exists()
    decoded = out.glob("*/one/logdir/output.*/1best_recog/text")
    before = {path: path.stat().st_mtime_ns for path in decoded}
    assert len(before) == 4 * 3
    sweep.main(command(out, "--shards", "3"))
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert texts(out) == whole
    assert (out / "report.html").is_file()
    # Another number of shards: nothing of the old ones is left to be counted twice.
    sweep.main(command(out, "--shards", "2"))
    assert texts(out) == whole
    names = {path.name for path in out.glob("*/one/logdir/*")}
    assert names == {"output.1", "output.2"}


def test_more_shards_than_utterances(command, whole, tmp_path):
    sweep.main(command(tmp_path / "out", "--shards", "9"))
    assert texts(tmp_path / "out") == whole


def test_batches_of_like_durations(command, whole, data, tmp_path, monkeypatch):
    """Other batches, the same transcripts in the same order."""
    copy = shutil.copytree(data / "one", tmp_path / "data/one")
    samples = (f"u{i} {int(16_000 * s)}\n" for i, s in enumerate(SECONDS))
    (copy / "utt2num_samples").write_text("".join(samples))
    shapes = []
    call = systems.Encoded.__call__

    def noted(self, speech, lengths):
        shapes.append(lengths.tolist())
        return call(self, speech, lengths)

    monkeypatch.setattr(systems.Encoded, "__call__", noted)
    sweep.main(command(tmp_path / "out", "--data", str(copy.parent)))
    assert shapes[0] == sorted(shapes[0], reverse=True)
    assert texts(tmp_path / "out") == whole


def test_each_process_takes_the_next_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    given = [systems.spread_over_gpus(LoadOptions("cuda"), i).device for i in range(3)]
    assert given == ["cuda:0", "cuda:1", "cuda:0"]
    for device in ("cpu", "cuda:1"):
        assert systems.spread_over_gpus(LoadOptions(device), 1).device == device


def test_what_is_refused_before_anything_is_decoded(
    command, model_dir, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="--shard 3: there are --shards 2"):
        sweep.main(command(out, "--shards", "2", "--shard", "3"))
    with pytest.raises(UserError, match=r"no/lm: no such lm weights"):
        sweep.main(command(out, "--lm", "/no/lm"))
    copy = shutil.copytree(model_dir, tmp_path / "model")
    config = yaml.safe_load((copy / "llada/config.yaml").read_text())
    config["decoder_conf"]["lm"] = "/no/such/lm"
    (copy / "llada/config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"/no/such/lm: no such lm weights"):
        sweep.main(command(out, "--model", str(copy)))
    monkeypatch.setattr(systems, "_free_memory", lambda _: ("this machine", 1e5, 1))
    message = r"this machine: 0\.\d GB of weights in 4 process.* 0\.0 GB are free"
    with pytest.raises(UserError, match=message):
        sweep.main(command(out, "--nj", "4"))
    assert not out.exists()


@pytest.mark.slow
def test_kill_9_anywhere(command, whole, tmp_path):
    out, repo = tmp_path / "out", Path(__file__).resolve().parents[2]
    cmd = [sys.executable, "-m", "espnet_llada.bin.sweep"]
    cmd += command(out, "--shards", "3", "--nj", "2")
    env = {**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"}
    for wanted in (1, 5, 9):
        process = subprocess.Popen(cmd, env=env, start_new_session=True)
        pattern = "*/one/logdir/output.*/1best_recog/seconds"
        while process.poll() is None and len(list(out.glob(pattern))) < wanted:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    found = subprocess.run(cmd, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert texts(out) == whole
