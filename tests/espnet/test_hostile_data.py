"""Trainings on data from strangers: nothing that a table names is run unasked."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("espnet2")

from train_helpers import job, three_utterances, train_command

from espnet_llada.types import UserError

SLOW = pytest.mark.slow  # more of the same


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return three_utterances(tmp_path / "data")


def places(data: Path, **changed: str) -> dict[str, str]:
    lines = (data / "wav.scp").read_text().splitlines()
    return dict(line.split() for line in lines) | changed


def write(path: Path, table: dict[str, str]) -> Path:
    path.write_text("".join(f"{u} {place}\n" for u, place in table.items()))
    return path


def pickled(data: Path, ran: Path) -> str:
    (data / "evil.ark").write_bytes(b"utt1 PKL" + pickle.dumps(Evil(ran)))
    return f"{data}/evil.ark:5"


def command(exp: Path, data: Path, scp: Path, kind: str, config, *extra) -> list[str]:
    cmd = train_command(exp, data, config)
    old = f"{data}/wav.scp,speech,sound"
    return [w.replace(old, f"{scp},speech,{kind}") for w in cmd] + list(extra)


@pytest.mark.parametrize(
    "names",
    [("chunks", "pickle"), pytest.param(("pipes", "sound", "stats"), marks=SLOW)],
)
def test_no_command_and_no_pickle_is_run(trainings, tiny_config, data, tmp_path, names):
    """By neither loader, in training and in stage 10, by another iterator of ESPnet."""
    ran = tmp_path / "ran"
    piped = {u: f"touch {ran}; cat {p} |" for u, p in places(data).items()}
    pipes = write(data / "pipes.scp", piped)
    evil = write(data / "evil.scp", places(data, utt1=pickled(data, ran)))
    plain = {**tiny_config, "batch_size": 1}
    chunks = {**plain, "iterator_type": "chunk", "chunk_length": "500"}
    cases = {
        "pipes": (pipes, "kaldi_ark", plain, "is a pipe"),
        "sound": (pipes, "sound", plain, "is a pipe"),
        "chunks": (pipes, "kaldi_ark", chunks, "is a pipe"),
        "stats": (pipes, "kaldi_ark", plain, "is a pipe"),
        "pickle": (evil, "kaldi_ark", plain, "a pickle"),
    }
    jobs = []
    for name in names:
        scp, kind, config, _ = cases[name]
        extra = ["--collect_stats", "true"] if name == "stats" else []
        cmd = command(tmp_path / name, data, scp, kind, config, *extra)
        jobs.append(job(tmp_path / name, cmd))
    assert trainings.run(*jobs) == [2] * len(names)
    for name in names:
        last = (tmp_path / name / "train.log").read_text().splitlines()[-1]
        assert last.startswith("error: ") and cases[name][-1] in last, last
    assert not ran.exists()


@pytest.mark.parametrize("kind", [pytest.param("sound", marks=SLOW), "kaldi_ark"])
def test_commands_run_where_the_user_says_so(
    trainings, tiny_config, data, tmp_path, kind
):
    ran = tmp_path / "ran"
    piped = {u: f"touch {ran}; cat {p} |" for u, p in places(data).items()}
    scp = write(data / "pipes.scp", piped)
    config = {**tiny_config, "batch_size": 1, "num_workers": 1}
    exp, allow = tmp_path / kind, ["--allow_pipes", "true"]
    allowed = job(exp, command(exp, data, scp, kind, config, *allow))
    in_yaml = tmp_path / "yaml"  # which may have come with a model
    cmd = command(in_yaml, data, scp, "sound", {**config, "allow_pipes": True})
    assert trainings.run(allowed, job(in_yaml, cmd)) == [0, 2]
    assert ran.exists()
    log = (exp / "train.log").read_text()
    assert "1epoch:train: 0 of 3 utterances left out" in log
    last = (in_yaml / "train.log").read_text().splitlines()[-1]
    assert last == "error: allow_pipes in a YAML: give --allow_pipes true instead"


def test_every_table_of_a_training_is_read_alike(
    trainings, tiny_config, data, tmp_path
):
    """Byte order marks, Windows line ends; a shape file that is none."""
    for name in ("wav.scp", "text", "shape"):
        lines = (data / name).read_bytes().replace(b"\n", b"\r\n")
        (data / name).write_bytes(b"\xef\xbb\xbf" + lines)
    good, bad = tmp_path / "good", tmp_path / "bad"
    config = {**tiny_config, "batch_size": 1}
    cmd = train_command(bad, data, config)
    (data / "no_shape").write_text("utt0 1\nutt1 x\nutt2 3\n")
    wrong = [word.replace(f"{data}/shape", f"{data}/no_shape") for word in cmd]
    jobs = [job(good, train_command(good, data, config)), job(bad, wrong)]
    assert trainings.run(*jobs) == [0, 2]
    log = (good / "train.log").read_text()
    assert "1epoch:train: 0 of 3 utterances left out" in log
    last = (bad / "train.log").read_text().splitlines()[-1]
    assert last.startswith(f"error: {data}/no_shape: 'utt1': expected numbers, found")


def test_streams_of_espnet_run_nothing_either(data, tmp_path):
    """Of its commands that are not ours, which the launcher runs."""
    from espnet2.train.dataset import ESPnetDataset
    from espnet2.train.iterable_dataset import IterableESPnetDataset

    from espnet_llada.espnet.readers import our_readers

    ran = tmp_path / "ran"
    for place in (f"touch {ran} |", f"|touch {ran}", pickled(data, ran)):
        scp = write(data / "evil.scp", {"utt1": place})
        with our_readers():
            stream = IterableESPnetDataset([(str(scp), "speech", "kaldi_ark")])
            with pytest.raises(UserError):
                list(stream)
            with pytest.raises(UserError):
                ESPnetDataset([(str(scp), "speech", "kaldi_ark")])["utt1"]
    assert not ran.exists()
    soundless = write(data / "wave.scp", {"utt1": f"cat {places(data)['utt1']} |"})
    with our_readers(allow_pipes=True):
        files = [(str(soundless), "speech", "kaldi_ark")]
        _, read = ESPnetDataset(files)["utt1"]
        (_, streamed), *_ = IterableESPnetDataset(files)
    assert len(read["speech"]) == 14_000
    assert np.array_equal(read["speech"], streamed["speech"])
