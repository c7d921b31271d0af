"""Real trainings of tiny models: forked off a process that has imported everything.

Importing torch and ESPnet takes longer than such a training. A fork of it is a process
like any other: it has its own log, and dies of kill -9.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml

WORDS = "the quick brown fox jumps over a lazy dog in a dark stormy night".split()
TEXTS = {"utt0": "THE DOG", "utt1": "A LOVELY VOICE", "utt2": "IT WAS A DARK NIGHT"}
SETTINGS = {
    "optim": "adamw",
    "optim_conf": {"lr": 1e-3},
    "batch_type": "sorted",
    "max_epoch": 1,
    "num_workers": 0,
    "num_att_plot": 0,
    "use_tensorboard": False,
    "use_matplotlib": False,
}
"""Of a train YAML, beside what builds the model."""

SERVER = """
import json, os, resource, signal, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # ESPnet prints while it is imported
from espnet_llada.import_guards import before_espnet
before_espnet()
from espnet_llada import run
from espnet_llada.bin import options
from espnet_llada.espnet.task import ASRTask

def die_before(name, count, folder):
    # The count-th replacing, linking or removing of such a file of the training.
    left = [count]
    def counted(original):
        def call(*args, **kwargs):
            path = [str(a) for a in args if not isinstance(a, bool)][-1]
            if path.startswith(folder) and path.endswith(name):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)
        return call
    for call in ("replace", "symlink", "unlink", "rename"):
        setattr(os, call, counted(getattr(os, call)))

def poison(utt_id):
    # A recording whose samples turn into NaN behind all checks.
    from espnet_llada.espnet import data
    load = data.Recordings.__getitem__
    def poisoned(self, key):
        return load(self, key) * (float("nan") if key == utt_id else 1)
    data.Recordings.__getitem__ = poisoned
    data.UsableDataset._complaint = lambda self, speech: None

for line in sys.stdin:
    jobs, pids = json.loads(line), []
    for job in jobs:
        pid = os.fork()
        if pid == 0:
            log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, 1), os.dup2(log, 2)
            sys.stdin.close()
            sys.stderr.write(f"pid {os.getpid()}\\n")
            code = 1
            try:
                if job["die_before"]:
                    die_before(*job["die_before"], job["folder"])
                if job["largest"]:
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest"],) * 2)
                if job["poison"]:
                    poison(job["poison"])
                launched = ["-m", "espnet2.bin.asr_train", *job["cmd"]]
                options.run_main(run.main, launched)
            except SystemExit as e:
                code = e.code or 0
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    answers.write(json.dumps(codes) + "\\n")
    answers.flush()
"""


class Trainings:
    """Starts ``asr_train`` commands and waits for them; a context manager."""

    def __init__(self, repo: Path):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(repo),
        )

    def __enter__(self) -> Trainings:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()

    def run(self, *jobs: dict) -> list[int]:
        """Exit codes of jobs (see ``job``) that run side by side."""
        self.process.stdin.write(json.dumps(jobs) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def environment(repo: Path) -> dict[str, str]:
    """For a process that imports this checkout, whatever is installed."""
    paths = [str(repo), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def job(
    exp: Path,
    cmd: list[str],
    name: str = "train.log",
    die_before: tuple[str, int] | None = None,
    poison: str | None = None,
    largest: int | None = None,
) -> dict:
    """A training for ``Trainings.run``.

    Args:
        exp: its directory.
        cmd: arguments of ``asr_train``.
        name: of the log in ``exp``.
        die_before: kill -9 before a file below ``exp/out`` whose name has this ending
            is replaced, linked or removed for the n-th time.
        poison: an utterance whose samples become NaN.
        largest: bytes that a file can have; more are refused as by a full disk.
    """
    log, folder = str(exp / name), str(exp / "out")
    return {
        **{"cmd": cmd, "log": log, "folder": folder},
        **{"die_before": die_before, "poison": poison, "largest": largest},
    }


def distributed(exp: Path, cmd: list[str], number: int = 2) -> list[dict]:
    """The same training, split over processes that talk through gloo."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    group = [f"--dist_world_size={number}", "--dist_backend=gloo"]
    group += ["--dist_master_addr=127.0.0.1", f"--dist_master_port={port}"]
    group += ["--multiprocessing_distributed=false"]
    return [
        job(exp, [*cmd, *group, f"--dist_rank={rank}"], f"rank{rank}.log")
        for rank in range(number)
    ]


def make_data(path: Path, count: int, seconds: float = 0.5) -> Path:
    """``count`` utterances of different lengths; ids utt000, utt001, …"""
    path.mkdir(parents=True)
    rng, pick = np.random.default_rng(0), random.Random(0)
    lines: dict[str, list[str]] = {"wav.scp": [], "text": [], "shape": []}
    for i in range(count):
        samples = rng.normal(0, 0.1, int(seconds * 16_000) + 160 * i)
        file = path / f"utt{i:03}.wav"
        soundfile.write(file, samples.astype(np.float32), 16_000, "PCM_16")
        text = " ".join(pick.choices(WORDS, k=2 + i % 7))
        for name, value in zip(lines, (file, text, len(samples)), strict=True):
            lines[name].append(f"utt{i:03} {value}\n")
    for name, content in lines.items():
        (path / name).write_text("".join(content))
    return path


def three_utterances(path: Path) -> Path:
    """``TEXTS``, each longer than the one before."""
    rng = np.random.default_rng(0)
    lengths = {u: 9_000 + 5_000 * i for i, u in enumerate(TEXTS)}
    for utt_id, n in lengths.items():
        soundfile.write(path / f"{utt_id}.flac", rng.normal(0, 0.1, n), 16_000)
    tables = {"wav.scp": {u: path / f"{u}.flac" for u in TEXTS}}
    tables |= {"text": TEXTS, "shape": lengths}
    for name, table in tables.items():
        (path / name).write_text("".join(f"{k} {v}\n" for k, v in table.items()))
    return path


def train_command(
    exp: Path, data: Path, config: Mapping, valid: Path | None = None, **options: object
) -> list[str]:
    """Arguments of ``asr_train`` whose YAML lies in ``exp``."""
    exp.mkdir(parents=True, exist_ok=True)
    (exp / "train.yaml").write_text(yaml.safe_dump({**SETTINGS, **config}))
    (exp / "tokens.txt").write_text("<blank>\n<unk>\n<sos/eos>\n")
    cmd: list[object] = ["--config", exp / "train.yaml", "--output_dir", exp / "out"]
    cmd += ["--token_list", exp / "tokens.txt", "--token_type", "hugging_face"]
    cmd += ["--bpemodel", "unused", "--ngpu", 0, "--resume", "true"]
    for split, folder in (("train", data), ("valid", valid or data)):
        for table in ("wav.scp,speech,sound", "text,text,text"):
            cmd += [f"--{split}_data_path_and_name_and_type", f"{folder}/{table}"]
        cmd += [f"--{split}_shape_file", folder / "shape"]
    for name, value in options.items():
        cmd += [f"--{name}", value]
    return [str(word) for word in cmd]


def end_state(out: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Model files with what links point at, and all tensors by file and name."""
    names = {
        p.name: os.readlink(p) if p.is_symlink() else ""
        for p in out.iterdir()
        if ".pth" in p.name
    }
    tensors = {}
    for name in names:
        if not (out / name).exists():
            continue  # ESPnet links to a model that it removes later
        # ESPnet's checkpoint.pth holds times and numpy numbers beside the tensors.
        content = torch.load(out / name, weights_only=name != "checkpoint.pth")
        for key, value in _leaves(content):
            if torch.is_tensor(value):
                tensors[f"{name}/{key}"] = value
    return names, tensors


def _leaves(content: object, key: str = ""):
    if isinstance(content, Mapping):
        content = list(content.items())
    elif isinstance(content, (list, tuple)):
        content = list(enumerate(content))
    else:
        yield key, content
        return
    for name, value in content:
        yield from _leaves(value, f"{key}/{name}")
