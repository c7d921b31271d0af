"""The YAMLs of the paper's size, with tiny weights in their layouts in place of 8B."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import soundfile
import torch
import yaml

from espnet_llada import Speech2Text
from espnet_llada.build import build_model
from espnet_llada.io.checkpoint import IDENTITY
from espnet_llada.recipe.options import Options

pytest.importorskip("espnet2")

from train_helpers import job, make_data, train_command

PREFIX = "decoder.audio_prefix"
EPOCHS, STEPS = 6, 4


@pytest.fixture(scope="module")
def config(repo, tiny_llada, tiny_whisper) -> dict:
    """Of the CTC's YAML, but for sizes, paths and lengths."""
    path = repo / "conf/train_asr_whisper_llada_8b_ctc.yaml"
    given = yaml.safe_load(path.read_text())
    assert given["decoder_conf"]["ctc"] == {"weight": 0.3, "head": "lm"}
    given["encoder_conf"]["whisper"] = str(tiny_whisper)
    given["decoder_conf"]["lm"] = str(tiny_llada)
    given["postencoder_conf"] |= {"hidden": 24, "heads": 4, "ffn": 48}
    given["optim_conf"]["lr"] = 3e-3
    steps = {"warmup_steps": 5, "total_steps": EPOCHS * STEPS, "min_lr": 1e-3}
    given["scheduler_conf"] |= steps
    given |= {"batch_size": 4, "max_epoch": EPOCHS, "num_iters_per_epoch": STEPS}
    return given | {"num_workers": 0, "log_interval": 1, "keep_nbest_models": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("large") / "data", 8)


@pytest.fixture(scope="module")
def trained(trainings, data, config, tmp_path_factory) -> Path:
    exp = tmp_path_factory.mktemp("large") / "exp"
    log = exp / "train.log"
    assert trainings.run(job(exp, train_command(exp, data, config))) == [0], (
        log.read_text()[-3000:]
    )
    return exp


def test_the_loss_falls(trained):
    log = (trained / "train.log").read_text()
    found = re.findall(r"epoch results: \[train\].*?\bloss=([^,\s]+)", log)
    losses = [float(value) for value in found]
    assert len(losses) == EPOCHS and losses[-1] < 0.9 * losses[0], losses


def test_the_rate_warms_up_and_falls(trained, config):
    """Log lines are of the rate behind the step."""
    log = (trained / "train.log").read_text()
    found = re.findall(r"epoch:train:.*?optim0_lr0=([^,\s]+)", log)
    rates, top = [float(value) for value in found], config["optim_conf"]["lr"]
    warm = config["scheduler_conf"]["warmup_steps"]
    assert len(rates) == EPOCHS * STEPS
    assert rates[: warm + 1] == sorted(rates[: warm + 1])
    assert max(rates) == pytest.approx(top, rel=0.2)
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    assert rates[-1] < 0.5 * top


def test_the_log_says_what_is_trained(trained, config):
    """Once, and before the first epoch."""
    log = (trained / "train.log").read_text()
    (line,) = re.findall(r"INFO: (trained .*)", log)
    assert log.index(line) < log.index("1/6epoch started")
    parts = {
        "Q-Former": "postencoder",
        "LoRA": "decoder.lm",
        "projection": f"{PREFIX}.projection",
        "CTC": f"{PREFIX}.ctc",
    }
    every = dict(build_model(config).named_parameters())
    learnt = {name: p.numel() for name, p in every.items() if p.requires_grad}
    total = sum(p.numel() for p in every.values())
    wanted = {
        part: sum(n for name, n in learnt.items() if name.startswith(start))
        for part, start in parts.items()
    }
    number = sum(wanted.values())

    def value(text: str) -> float:
        digits, _, unit = text.partition(" ")
        return float(digits) * {"": 1, "k": 1e3, "M": 1e6}[unit]

    pattern = r"trained (.*) of (.*) parameters \((.*) %\): (.*); frozen: (.*)"
    have, of, share, listed, frozen = re.fullmatch(pattern, line).groups()
    assert value(have) == pytest.approx(number, rel=0.01)
    assert value(of) == pytest.approx(total, rel=0.01)
    assert float(share) == pytest.approx(100 * number / total, abs=0.01)
    listed = dict(re.match(r"(\D+?) (\d.*)", p).groups() for p in listed.split(", "))
    assert [*listed] == [*parts]
    for part, text in listed.items():
        assert value(text) == pytest.approx(wanted[part], rel=0.01), part
    assert [p.split()[0] for p in frozen.split(", ")] == ["LM", "encoder"]


def test_the_averaged_checkpoint_is_the_mean_of_the_best(trained):
    """And what the recipe decodes with; the last epoch is kept in any case."""
    out, name = trained / "out", Options().inference_asr_model
    assert (out / name).readlink() == Path("valid.acc.ave_2best.pth")
    averaged = torch.load(out / name, weights_only=True)
    identity = averaged.pop(IDENTITY)
    kept = [p for p in out.glob("*epoch.pth") if not p.is_symlink()]
    assert 2 <= len(kept) <= 3
    states = [torch.load(p, weights_only=True) for p in kept]
    assert all(torch.equal(state.pop(IDENTITY), identity) for state in states)

    def is_mean(one: dict, other: dict) -> bool:
        pairs = {name: (one[name] + other[name]) / 2 for name in one}
        return all(torch.allclose(averaged[n], mean) for n, mean in pairs.items())

    found = [is_mean(*pair) for pair in itertools.combinations(states, 2)]
    assert found.count(True) == 1
    assert averaged.keys() == states[0].keys() >= {f"{PREFIX}.ctc.scale"}
    assert not any("embed_tokens" in name or "head" in name for name in averaged)


def test_what_was_trained_is_loaded_and_decodes(trained, data):
    files = trained / "out/config.yaml", trained / "out/valid.acc.ave.pth"
    speech2text = Speech2Text(*files, steps=2, canvas_length=8)
    prefix = speech2text.recognizer.model.decoder.audio_prefix
    state = torch.load(files[1], weights_only=True)
    assert torch.equal(prefix.ctc.scale.detach(), state[f"{PREFIX}.ctc.scale"])
    assert prefix.head == "lm"
    speech, _ = soundfile.read(data / "utt000.wav", dtype="float32")
    ((text, *_),) = speech2text(speech)
    assert isinstance(text, str)
