"""The mini systems' trainings in small: the adapter alone, then with its own LM."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("espnet2")

from train_helpers import job, make_data, train_command

PREFIX = "decoder.audio_prefix"
BEGUN = ("postencoder", f"{PREFIX}.projection", f"{PREFIX}.ctc")


def tensors(file, *parts: str) -> dict[str, torch.Tensor]:
    state = torch.load(file, weights_only=True)
    return {k: v for k, v in state.items() if k.startswith(parts)}


def test_the_adapter_is_warmed_up_and_handed_on(
    trainings, tiny_config, tiny_whisper, tmp_path
):
    data = make_data(tmp_path / "data", 12)
    conf = {**tiny_config["decoder_conf"], "lora": None}
    config = {
        **tiny_config,
        "postencoder": "whisper_qformer",
        "postencoder_conf": {"whisper": str(tiny_whisper), "window": 2, "time_mask": 3},
        "decoder_conf": {**conf, "ctc": {"weight": 1.0, "only": True}},
        "batch_size": 4,
        "use_amp": True,
    }
    cmd = train_command(tmp_path / "ctc", data, config, max_epoch=3)
    log = tmp_path / "ctc/train.log"
    assert trainings.run(job(tmp_path / "ctc", cmd)) == [0], log.read_text()
    warm = tmp_path / "ctc/out/3epoch.pth"
    first = tensors(tmp_path / "ctc/out/1epoch.pth", *BEGUN)
    for part in BEGUN:
        learnt = [k for k in first if k.startswith(part)]
        changed = tensors(warm, part)
        assert any(not torch.equal(first[k], changed[k]) for k in learnt), part
    assert not any(".attn.query." in k for k in first), (
        "over one query it has no effect"
    )

    config["decoder_conf"] = {**conf, "train_lm": True, "ctc": {"weight": 0.1}}
    still = {**config, "optim": "sgd", "optim_conf": {"lr": 0.0}}
    cmd = train_command(tmp_path / "joint", data, still)
    cmd += ["--init_param", *(f"{warm}:{part}:{part}" for part in BEGUN)]
    log = tmp_path / "joint/train.log"
    assert trainings.run(job(tmp_path / "joint", cmd)) == [0], log.read_text()
    begun = tensors(tmp_path / "joint/out/1epoch.pth", *BEGUN)
    for name, tensor in tensors(warm, *BEGUN).items():
        assert torch.equal(tensor, begun[name]), name
    assert tensors(tmp_path / "joint/out/1epoch.pth", "decoder.lm.body.layers")


def prefix_conf(tiny_config, word_lm) -> dict:
    """Of a decoder with a posterior prefix."""
    return {
        **{k: v for k, v in tiny_config["decoder_conf"].items() if k != "lora"},
        "lm": str(word_lm),
        "posterior_prefix": {"positions": "aligned"},
        "ctc": {"weight": 0.0},
    }


@pytest.mark.slow
def test_a_scorer_is_trained_alone(trainings, tiny_config, word_lm, tmp_path):
    data, conf = make_data(tmp_path / "data", 12), prefix_conf(tiny_config, word_lm)
    config = {
        **tiny_config,
        "postencoder": "frames",
        "postencoder_conf": {},
        "decoder_conf": {**conf, "whisper_scorer": {"bottleneck": 4, "only": True}},
        "batch_size": 4,
        "use_amp": True,
    }
    cmd = train_command(tmp_path / "alone", data, config, max_epoch=2)
    log = tmp_path / "alone/train.log"
    assert trainings.run(job(tmp_path / "alone", cmd)) == [0], log.read_text()
    first, then = (tmp_path / f"alone/out/{n}epoch.pth" for n in (1, 2))
    learnt, changed = tensors(first, "decoder"), tensors(then, "decoder")
    for name, tensor in learnt.items():
        trained = f"{PREFIX}.scorer." in name
        assert torch.equal(tensor, changed[name]) != trained, name


@pytest.mark.slow
def test_a_frozen_scorer_is_kept_in_the_checkpoint(
    trainings, tiny_config, word_lm, tiny_whisper, tmp_path
):
    data, whisper = make_data(tmp_path / "data", 12), str(tiny_whisper)
    conf = {
        **prefix_conf(tiny_config, word_lm),
        "train_lm": True,
        "posterior_prefix": {"copy_head": True, "acoustic_confusion": 0.1},
        "ctc": {"weight": 1.0},
        "whisper_scorer": {"bottleneck": 4, "first_pass": 0.5},
    }
    config = {
        **tiny_config,
        "postencoder": "whisper_qformer",
        "postencoder_conf": {"whisper": whisper, "window": 2, "return_frames": True},
        "decoder_conf": conf,
        "batch_size": 4,
        "use_amp": True,
    }
    first = tmp_path / "first/out/1epoch.pth"
    cmd = train_command(tmp_path / "first", data, config)
    log = tmp_path / "first/train.log"
    assert trainings.run(job(tmp_path / "first", cmd)) == [0], log.read_text()
    learnt = tensors(first, f"{PREFIX}.scorer")
    assert learnt and all(".bottlenecks." in name for name in learnt)
    assert any(name.endswith("up.weight") and t.any() for name, t in learnt.items())

    parts = ("postencoder", f"{PREFIX}.ctc", f"{PREFIX}.scorer")
    cmd = train_command(tmp_path / "then", data, {**config, "freeze_param": [*parts]})
    cmd += ["--init_param", *(f"{first}:{part}:{part}" for part in parts)]
    log = tmp_path / "then/train.log"
    assert trainings.run(job(tmp_path / "then", cmd)) == [0], log.read_text()
    kept = tensors(tmp_path / "then/out/1epoch.pth", *parts)
    assert kept.keys() == tensors(first, *parts).keys()
    for name, tensor in tensors(first, *parts).items():
        assert torch.equal(tensor, kept[name]), name
