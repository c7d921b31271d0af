"""Frames on disk: as a user makes them, breaks them off, damages them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_llada.bin import features
from espnet_llada.build import build_encoder
from espnet_llada.io.audio.reading import load_audio
from espnet_llada.io.feature_cache import check_scp
from espnet_llada.types import UserError

SECONDS = (0.6, 1.3, 2.1, 1.2, 0.5, 2.0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A data directory of six utterances; one lies in an ark."""
    path = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    lines = []
    for i, seconds in enumerate(SECONDS):
        samples = rng.normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)
        soundfile.write(path / f"utt{i}.flac", samples, 16_000)
        lines.append(f"utt{i} {path}/utt{i}.flac\n")
    samples = (samples * 32767).astype(np.int16)
    wav = {"utt6": (16_000, samples)}
    kaldiio.save_ark(str(path / "w.ark"), wav, scp=str(path / "w.scp"))
    lines.append((path / "w.scp").read_text())
    (path / "wav.scp").write_text("".join(lines))
    (path / "text").write_text("".join(f"utt{i} THE DOG\n" for i in range(7)))
    return path


def config(path: Path, tiny_config: dict, **encoder_conf) -> Path:
    conf = {**tiny_config["encoder_conf"], **encoder_conf}
    path.write_text(yaml.safe_dump({**tiny_config, "encoder_conf": conf}))
    return path


def make(tmp_path: Path, corpus: Path, tiny_config: dict, *options, **conf) -> Path:
    train = config(tmp_path / "train.yaml", tiny_config, **conf)
    out = tmp_path / "features"
    cmd = ["--config", train, "--wav_scp", corpus / "wav.scp", "--output", out]
    features.main([*map(str, cmd), *options])
    return out


def table(scp: Path) -> dict[str, str]:
    return dict(line.split() for line in scp.read_text().splitlines())


@pytest.mark.parametrize(
    ("pad_seconds", "batch_seconds", "error"),
    # Alone or with others, a row is the same up to the order of a matrix product's
    # sums, which at this width depends on the number of rows.
    [(0.0, 0.1, 0.0), (0.0, 4.0, 1e-5), (30.0, 0.1, 0.0)],
)
def test_frames_are_the_encoders(
    tmp_path, corpus, tiny_config, pad_seconds, batch_seconds, error
):
    conf = {"pad_seconds": pad_seconds, "keep_padding": pad_seconds > 0}
    options = ("--storage", "float32", "--batch_seconds", str(batch_seconds))
    out = make(tmp_path, corpus, tiny_config, *options, **conf)
    encoder = build_encoder(**{**tiny_config["encoder_conf"], **conf})
    shapes = table(out / "feats_shape")
    assert sorted(shapes) == [f"utt{i}" for i in range(7)]
    for utt_id, place in table(out / "feats.scp").items():
        speech = torch.from_numpy(load_audio(table(corpus / "wav.scp")[utt_id]))
        frames, _ = encoder(speech[None], torch.tensor([len(speech)]))
        stored = kaldiio.load_mat(place)
        assert shapes[utt_id] == ",".join(map(str, stored.shape))
        assert np.abs(stored - frames[0].numpy()).max() <= error
    assert (out / "feats_type").read_text() == "extracted\n"
    assert (out / "feats_dim").read_text() == "16\n"
    assert (out / "text").read_text() == (corpus / "text").read_text()


def test_float16_loses_nothing_of_a_bfloat16_encoder(tmp_path, corpus, tiny_config):
    out = make(tmp_path, corpus, tiny_config, dtype="bfloat16")
    encoder = build_encoder(**{**tiny_config["encoder_conf"], "dtype": "bfloat16"})
    for utt_id, place in table(out / "feats.scp").items():
        speech = torch.from_numpy(load_audio(table(corpus / "wav.scp")[utt_id]))
        frames, _ = encoder(speech[None], torch.tensor([len(speech)]))
        stored = kaldiio.load_mat(place)
        assert stored.dtype == np.float16
        read = torch.from_numpy(stored.astype(np.float32)).to(torch.bfloat16)
        normal = frames[0].abs() >= 2**-14
        assert torch.equal(read[normal], frames[0][normal])
        assert torch.allclose(read, frames[0], atol=2**-24)


def test_a_second_run_writes_what_is_new_only(tmp_path, corpus, tiny_config):
    out = make(tmp_path, corpus, tiny_config, "--shard_size", "3")
    arks = {p: p.stat().st_mtime_ns for p in out.glob("*.ark")}
    assert len(arks) == 3
    more = tmp_path / "more"
    shutil.copytree(corpus, more)
    with open(more / "wav.scp", "a") as f:
        f.write(f"utt7 {corpus}/utt0.flac\n")
    with open(more / "text", "a") as f:
        f.write("utt7 THE DOG\n")
    make(tmp_path, more, tiny_config, "--shard_size", "3")
    assert {p: p.stat().st_mtime_ns for p in arks} == arks
    assert len(list(out.glob("*.ark"))) == 4
    assert len(table(out / "feats.scp")) == 8


def test_what_a_kill_leaves_is_taken_up(tmp_path, tiny_config, repo):
    """kill -9 at the first whole shard of many: it is kept, the rest follows."""
    path = tmp_path / "many"
    path.mkdir()
    rng = np.random.default_rng(0)
    ids = [f"utt{i:03d}" for i in range(60)]
    for utt_id in ids:
        samples = rng.normal(0, 0.1, 16_000)
        soundfile.write(path / f"{utt_id}.flac", samples, 16_000)
    lines = "".join(f"{u} {path}/{u}.flac\n" for u in ids)
    (path / "wav.scp").write_text(lines)
    train, out = config(tmp_path / "train.yaml", tiny_config), tmp_path / "features"
    cmd = ["--config", train, "--wav_scp", path / "wav.scp", "--output", out]
    cmd = [*map(str, cmd), "--shard_size", "2"]
    run = [sys.executable, "-m", "espnet_llada.bin.features", *cmd]
    process = subprocess.Popen(run, env={**os.environ, "PYTHONPATH": str(repo)})
    while not (done := list(out.glob("frames.*.json"))):
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "feats.scp").exists(), "killed too late to test anything"
    (out / ".frames.9.ark.killed").write_bytes(b"half a shard")
    (out / "frames.99.ark").write_bytes(b"killed before it was described")
    kept = {p: p.stat().st_mtime_ns for p in done}
    features.main(cmd)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert sorted(table(out / "feats.scp")) == ids
    assert not list(out.glob(".frames.*")) and not (out / "frames.99.ark").exists()


@pytest.mark.parametrize("damage", ["cut", "missing", "not described"])
def test_a_damaged_shard_is_named_and_mended(
    tmp_path, corpus, tiny_config, damage, caplog
):
    out = make(tmp_path, corpus, tiny_config, "--shard_size", "3")
    encoder = build_encoder(**tiny_config["encoder_conf"])
    wanted = encoder.identity(encoder.weights)
    check_scp(out / "feats.scp", wanted)
    ark = out / "frames.2.ark"
    content = ark.read_bytes()
    if damage == "not described":
        ark.with_suffix(".json").write_text("{")
    else:
        ark.unlink()
    if damage == "cut":
        ark.write_bytes(content[:-5])
    with pytest.raises(UserError, match=r"frames\.2\.ark: (holds|missing|not desc)"):
        check_scp(out / "feats.scp", wanted)
    make(tmp_path, corpus, tiny_config)
    assert "frames.2.ark" in caplog.text or damage == "missing"
    check_scp(out / "feats.scp", wanted)
    assert len(table(out / "feats.scp")) == 7


def test_a_changed_recording_is_encoded_anew(tmp_path, corpus, tiny_config):
    out = make(tmp_path, corpus, tiny_config, "--shard_size", "1")  # ten and more
    before = table(out / "feats_shape")
    for number in (1, 2, 3, 4):
        copy = tmp_path / f"corpus{number}"
        shutil.copytree(corpus, copy)
        scp = (copy / "wav.scp").read_text().split("\n")
        soundfile.write(copy / "new.flac", np.zeros(16_000 * number), 16_000)
        scp[0] = f"utt0 {copy}/new.flac"
        (copy / "wav.scp").write_text("\n".join(scp))
        make(tmp_path, copy, tiny_config)
        now = table(out / "feats_shape")
        assert now == {**before, "utt0": f"{50 * number},16"}


def test_verify_finds_an_altered_byte(tmp_path, corpus, tiny_config, caplog):
    out = make(tmp_path, corpus, tiny_config)
    before = {u: kaldiio.load_mat(p) for u, p in table(out / "feats.scp").items()}
    content = bytearray((out / "frames.1.ark").read_bytes())
    content[-1] ^= 1
    (out / "frames.1.ark").write_bytes(content)
    make(tmp_path, corpus, tiny_config)
    assert not caplog.text
    make(tmp_path, corpus, tiny_config, "--verify", "true")
    assert "frames.1.ark: its sha256" in caplog.text
    for utt_id, place in table(out / "feats.scp").items():
        assert np.array_equal(kaldiio.load_mat(place), before[utt_id])


def test_frames_of_earlier_versions_still_fit(tiny_config):
    encoder = build_encoder(**tiny_config["encoder_conf"])
    assert encoder.padding == {
        "pad_seconds": 0.0,
        "keep_padding": False,
        "pad_multiple_seconds": 1.0,
    }


@pytest.mark.parametrize(
    ("conf", "named"),
    [({"pad_seconds": 2.0}, "pad_seconds"), ({"dtype": "bfloat16"}, "dtype")],
)
def test_frames_of_another_encoder_are_refused(
    tmp_path, corpus, tiny_config, conf, named
):
    out = make(tmp_path, corpus, tiny_config)
    other = build_encoder(**{**tiny_config["encoder_conf"], **conf})
    with pytest.raises(UserError, match=named) as e:
        check_scp(out / "feats.scp", other.identity(other.weights))
    assert str(out) in str(e.value) and "\n" not in str(e.value)
    with pytest.raises(UserError, match=named):  # nor are they mixed
        make(tmp_path, corpus, tiny_config, **conf)
    own = build_encoder(**tiny_config["encoder_conf"])
    wanted = {**own.identity(own.weights), "sha256": "0" * 64}
    with pytest.raises(UserError, match="sha256"):
        check_scp(out / "feats.scp", wanted)
    (out / "features.json").unlink()
    with pytest.raises(UserError, match="unknown encoder"):
        check_scp(out / "feats.scp", wanted)
    check_scp(corpus / "w.scp", wanted)  # waveforms in an ark are none


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.write_bytes(b"not audio"), "utt1.flac"),
        (lambda p: p.unlink(), "utt1.flac"),
        (lambda p: soundfile.write(p, np.zeros(481_000), 16_000), "'utt1' is 30.06 s"),
    ],
)
def test_a_bad_recording_is_named(tmp_path, corpus, tiny_config, change, message):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    scp = copy / "wav.scp"
    scp.write_text(scp.read_text().replace(str(corpus), str(copy)))
    change(copy / "utt1.flac")
    with pytest.raises(UserError, match=message):
        make(tmp_path, copy, tiny_config)


@pytest.mark.slow  # two processes that import torch
def test_two_processes(tmp_path, corpus, tiny_config):
    out = make(tmp_path, corpus, tiny_config, "--nj", "2", "--shard_size", "4")
    assert len(table(out / "feats.scp")) == 7
    assert json.loads((out / "features.json").read_text())["d_model"] == 16


def test_segments_and_commands_are_refused(tmp_path, corpus, tiny_config):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    (copy / "segments").write_text("u1 utt0 0.0 0.3\nu2 utt0 0.3 0.6\n")
    with pytest.raises(UserError, match="corpus/segments: not supported here"):
        make(tmp_path, copy, tiny_config)
    (copy / "segments").unlink()
    (copy / "text").write_text("utt0 THE DOG\n")
    with pytest.raises(UserError, match=r"corpus/text: no line for 'utt1'; add it"):
        make(tmp_path, copy, tiny_config)
    shutil.copy(corpus / "text", copy)
    ran, table_of = tmp_path / "ran", table(copy / "wav.scp")
    piped = f"touch {ran}; cat {table_of['utt1']} |"
    lines = {**table_of, "utt1": piped}.items()
    (copy / "wav.scp").write_text("".join(f"{u} {place}\n" for u, place in lines))
    with pytest.raises(UserError, match=r"wav\.scp: 'utt1' is a pipe"):
        make(tmp_path, copy, tiny_config)
    assert not ran.exists() and not (tmp_path / "features").exists()
    out = make(tmp_path, copy, tiny_config, "--allow_pipes", "true")
    assert ran.exists()
    assert table(out / "feats_shape")["utt1"] == "65,16"


@pytest.mark.parametrize("name", ["frames.1.ark", "feats.scp"])
def test_features_of_others_are_left_alone(tmp_path, corpus, tiny_config, name):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / name).write_text("mine\n")
    with pytest.raises(UserError, match=f"{name}: not of `espnet-llada features`"):
        make(tmp_path, corpus, tiny_config)
    assert (tmp_path / "features" / name).read_text() == "mine\n"


def test_frames_that_run_code_are_refused(tmp_path, corpus, tiny_config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder = build_encoder(**tiny_config["encoder_conf"])
    wanted, scp = encoder.identity(encoder.weights), tmp_path / "feats.scp"
    with open("evil.ark", "wb") as f:
        kaldiio.save_ark(f, {"u1": np.zeros((2, 16))}, write_function="pickle")
    (tmp_path / "|touch ran #.ark").write_bytes(b"u1 \0B")
    for place in ("evil.ark:3", "|touch ran #.ark:3", "touch ran |"):
        scp.write_text((corpus / "w.scp").read_text() + f"u1 {place}\n")
        # What a command would give is seen, or refused, where it is read.
        if not place.startswith("evil"):
            check_scp(scp, wanted)
            continue
        with pytest.raises(UserError, match="a pickle"):
            check_scp(scp, wanted)
    assert not (tmp_path / "ran").exists()


def test_an_encoder_that_is_trained_is_refused(tmp_path, corpus, tiny_config):
    with pytest.raises(UserError, match="conformer"):
        make(tmp_path, corpus, {**tiny_config, "encoder": "conformer"})
