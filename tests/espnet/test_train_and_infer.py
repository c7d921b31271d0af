"""ESPnet2 itself trains two steps and decodes, by launcher and by our commands."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from espnet_llada import Deliberator, Speech2Text, UserError
from espnet_llada.io.checkpoint import IDENTITY
from espnet_llada.types import Hypothesis

pytest.importorskip("espnet2")

from train_helpers import TEXTS, job, three_utterances, train_command


def python(repo: Path, *args: object) -> subprocess.CompletedProcess:
    # An ESPnet on PYTHONPATH stays there: asr_sh.sh tests another than the installed.
    paths = filter(None, [str(repo), os.environ.get("PYTHONPATH")])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, "-m", *map(str, args)], capture_output=True, text=True, env=env
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return three_utterances(tmp_path_factory.mktemp("data"))


def training_command(data: Path, config: dict, exp: Path) -> list[str]:
    best = [["valid", "acc", "max"]]
    config = {**config, "batch_size": 2, "best_model_criterion": best}
    return train_command(exp, data, config)


def train(repo: Path, data: Path, config: dict, exp: Path):
    launcher = ("espnet_llada.run", "-m", "espnet2.bin.asr_train")
    return python(repo, *launcher, *training_command(data, config, exp))


@pytest.fixture(scope="module")
def trained(trainings, data, tiny_config, tmp_path_factory) -> Path:
    """llada/out and llama/out: two steps each, by ESPnet's own Trainer."""
    top = tmp_path_factory.mktemp("exp")
    jobs = []
    for decoder in ("llada", "llama"):
        exp = top / decoder
        cmd = training_command(data, {**tiny_config, "decoder": decoder}, exp)
        jobs.append(job(exp, cmd))
    assert trainings.run(*jobs) == [0, 0], (top / "llada/train.log").read_text()
    return top


def test_training_leaves_espnets_files_with_trained_tensors_only(trained):
    out = trained / "llada/out"
    state = torch.load(out / "valid.acc.ave.pth", weights_only=True)
    assert IDENTITY in state
    assert not any("encoder.whisper" in k or "embed_tokens" in k for k in state)
    assert (out / "valid.acc.ave.pth").stat().st_size < 200_000
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["decoder"] == "llada" and config["model"] == "llada"
    assert len(config["token_list"]) == 3


def test_training_changes_what_it_should(trained, tiny_config):
    from espnet_llada.build import build_model

    state = torch.load(trained / "llada/out/1epoch.pth", weights_only=True)
    for name, tensor in state.items():
        if "lora_B" in name:  # starts at zero
            assert tensor.abs().max() > 0, name
    model = build_model(tiny_config)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert set(state) - {IDENTITY} == names


@pytest.mark.parametrize(
    ("module", "system", "extra"),
    [
        ("espnet_llada.bin.asr_inference", "llada", ["--steps", 3]),
        ("espnet_llada.bin.asr_inference", "llama", ["--canvas_length", 8]),
        ("espnet_llada.bin.asr_deliberate", "llada", ["--mask_ratio", 0.5]),
        ("espnet_llada.run -m espnet2.bin.asr_inference", "llada", ["--steps", 2]),
    ],
)
def test_decoding_writes_one_line_for_each_utterance(
    repo, data, trained, tmp_path, caplog, module, system, extra
):
    # A key order of its own, and an utterance that cannot be read.
    (data / "bad.flac").write_bytes(b"not audio")
    scp = (data / "wav.scp").read_text() + f"bad {data}/bad.flac\n"
    (tmp_path / "wav.scp").write_text(scp)
    keys = ["utt2", "bad", "utt0", "utt1"]
    (tmp_path / "keys").write_text("".join(f"{k} x\n" for k in keys))
    if "deliberate" in module:
        texts = {**TEXTS, "bad": "LEFT ALONE"}
        lines = "".join(f"{k} {v}\n" for k, v in texts.items())
        (tmp_path / "first").write_text(lines)
        extra = [*extra, "--first_pass", tmp_path / "first"]
    given = [
        *("--data_path_and_name_and_type", f"{tmp_path}/wav.scp,speech,sound"),
        *("--key_file", tmp_path / "keys", "--output_dir", tmp_path / "out"),
        *("--asr_train_config", trained / system / "out/config.yaml"),
        *("--asr_model_file", trained / system / "out/valid.acc.ave.pth"),
        *("--batch_size", 3, *extra),
    ]
    if module.startswith("espnet_llada.run"):
        done = python(repo, *module.split(), *given)
        assert done.returncode == 0, done.stderr[-3000:]
        log = done.stderr
    else:
        caplog.set_level(logging.INFO)
        importlib.import_module(module).main([str(word) for word in given])
        log = caplog.text
    for name in ("text", "token", "token_int", "score", "passes", "seconds"):
        lines = (tmp_path / "out/1best_recog" / name).read_text().splitlines()
        assert [line.split()[0] for line in lines] == keys, name
    text = (tmp_path / "out/1best_recog/text").read_text().splitlines()[1]
    assert text.split() == (
        ["bad", "LEFT", "ALONE"] if "deliber" in module else ["bad"]
    )
    failed = (tmp_path / "out/failed").read_text().splitlines()
    assert len(failed) == 1 and failed[0].startswith("bad ")
    assert "1 failed" in log


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output_dir": "{tmp}/file/out"}, "file.*(choose|make room)"),
        ({"key_file": "{tmp}/keys"}, "'stranger' is not in"),
        ({"asr_model_file": "{tmp}/no.pth"}, r"no\.pth: no such checkpoint"),
        ({"asr_train_config": "{tmp}/file"}, "file: .*at the top level"),
        ({"data_path_and_name_and_type": "{tmp}/x"}, "PATH,speech,sound"),
        ({"data_path_and_name_and_type": "{tmp}/file,speech,sound"}, "file:1: no path"),
        ({"data_path_and_name_and_type": "{tmp}/cmd,speech,sound"}, "'u1' is a pipe"),
        ({"data_path_and_name_and_type": "{tmp}/d/w,speech,sound"}, "d/segments: not"),
        ({"strategy": "semi_ar", "steps": "0"}, "steps: 0"),
        ({"strategy": "deliberation_random"}, "--first_pass is required"),
        (
            {"strategy": "deliberation_random", "first_pass": "{tmp}"},
            "no transcripts in it",
        ),
    ],
)
def test_bad_decoding_input_is_one_line(data, trained, tmp_path, change, message):
    from espnet_llada.bin import asr_inference

    (tmp_path / "file").write_text("word\n")
    (tmp_path / "keys").write_text("stranger x\n")
    (tmp_path / "cmd").write_text("u1 cat u1.wav |\n")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/w").write_text("rec rec.wav\n")
    (tmp_path / "d/segments").write_text("u1 rec 0 1\n")
    options = {
        "data_path_and_name_and_type": f"{data}/wav.scp,speech,sound",
        "output_dir": str(tmp_path / "out"),
        "asr_train_config": str(trained / "llada/out/config.yaml"),
        "asr_model_file": str(trained / "llada/out/valid.acc.ave.pth"),
    }
    options |= {k: v.format(tmp=tmp_path) for k, v in change.items()}
    cmd = [word for k, v in options.items() for word in (f"--{k}", v)]
    with pytest.raises(UserError, match=message) as e:
        asr_inference.main(cmd)
    assert "\n" not in str(e.value)


def test_all_options_of_espnets_asr_inference_are_known():
    from espnet2.bin.asr_inference import get_parser

    from espnet_llada.bin import asr_inference

    ours = {action.dest for action in asr_inference.get_parser()._actions}
    theirs = {action.dest for action in get_parser()._actions}
    assert theirs - ours <= {"help"}


def test_the_api_returns_what_espnets_does(data, trained):
    out = trained / "llada/out"
    speech2text = Speech2Text(out / "config.yaml", out / "valid.acc.ave.pth", steps=3)
    speech = np.random.default_rng(0).normal(0, 0.1, 20_000)
    for given in (speech, torch.tensor(speech), data / "utt0.flac"):
        text, tokens, ids, hypothesis = speech2text(given)[0]
        assert isinstance(hypothesis, Hypothesis)
        assert hypothesis.text == text and len(tokens) == len(ids)
    assert speech2text([]) == []
    for wrong, message in (
        (np.zeros((2, 800)), "mono"),
        ((speech * 32767).astype(np.int64), "int64 samples; give floats"),
        (torch.zeros(800, dtype=torch.int64), "int64 samples; give floats"),
        (speech * 32767, "full scale is 1"),
        (speech * np.nan, "NaN"),
        (np.zeros(0), "no samples"),
        (b"RIFF", "bytes; give an array"),
    ):
        with pytest.raises(UserError, match=message):
            speech2text(wrong)
    learnt = torch.tensor(speech, requires_grad=True)
    assert speech2text(learnt)[0][0] == speech2text(speech)[0][0]
    again = Speech2Text.from_pretrained(out, steps=3)(data / "utt0.flac")
    assert again[0][0] == text
    deliberator = Deliberator.from_pretrained(trained / "llada/out", mask_ratio=0.0)
    assert deliberator(data / "utt0.flac", "the dog")[0][0] == "the dog"
    with pytest.raises(UserError, match="is for Speech2Text, not for Deliberator"):
        Deliberator.from_pretrained(out, strategy="diffusion")
    with pytest.raises(UserError, match="is for Deliberator, not for Speech2Text"):
        Speech2Text.from_pretrained(out, strategy="deliberation_random")
    with pytest.raises(UserError, match="mask_ration"):
        Deliberator.from_pretrained(out, mask_ration=0.0)


def test_espnet_and_the_light_path_are_one_network(data, trained):
    """The same checkpoint in ESPnet's model and in WhisperLLM: the same loss."""
    from espnet_llada.build import build_model
    from espnet_llada.core.objective import Targets
    from espnet_llada.espnet.inference import build_with_espnet
    from espnet_llada.io.checkpoint import load_trained, read_state

    config = yaml.safe_load((trained / "llada/out/config.yaml").read_text())
    state = read_state(trained / "llada/out/1epoch.pth")
    heavy, light = build_with_espnet(config), build_model(config)
    for model in (heavy, light):
        load_trained(model.eval(), state, "x")
    speech = torch.randn(2, 30_000) * 0.1
    speech_lengths = torch.tensor([30_000, 21_000])
    text, lengths = torch.tensor([[3, 4, 5], [6, 7, -1]]), torch.tensor([3, 2])
    speech[1, 21_000:] = 0
    with torch.no_grad():
        loss, stats, weight = heavy(speech, speech_lengths, text, lengths)
        audio = light.encode(speech, speech_lengths)
        targets = Targets(text.clamp(min=0), lengths)
        expected = light.decoder.training_loss(*audio, targets).mean
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert int(weight) == 2 and set(stats) == {"loss", "acc"}


@pytest.mark.slow
def test_decoder_llada_is_all_a_user_of_espnets_conformer_changes(
    repo, data, tiny_config, tmp_path
):
    config = {
        "encoder": "conformer",
        "encoder_conf": {
            "output_size": 16,
            "attention_heads": 2,
            "linear_units": 16,
            "num_blocks": 1,
            "input_layer": "conv2d",
        },
        "decoder": "llada",
        "decoder_conf": tiny_config["decoder_conf"],
        "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1},
        "frontend_conf": {"n_fft": 256, "hop_length": 128},
    }
    done = train(repo, data, config, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "not used: model_conf ctc_weight, lsm_weight" in done.stderr
    assert "nltk" not in done.stderr, "nothing is downloaded for phonemes"
    state = torch.load(tmp_path / "out/1epoch.pth", weights_only=True)
    assert any(k.startswith("encoder.encoders.0.") for k in state)
    speech2text = Speech2Text(
        tmp_path / "out/config.yaml", tmp_path / "out/1epoch.pth", steps=2
    )
    assert len(speech2text(data / "utt2.flac")) == 1


@pytest.mark.parametrize(
    ("section", "key", "hint"),
    [
        ("decoder_conf", "text_cas", "text_case"),
        ("encoder_conf", "pad_second", "pad_seconds"),
        ("postencoder_conf", "query", "queries"),
        (None, "optimm", "train.yaml"),
    ],
)
def test_an_unknown_key_is_one_line(tiny_config, tmp_path, section, key, hint):
    from espnet_llada.bin import asr_train

    config = dict(tiny_config)
    if section:
        config[section] = {**config[section], key: 1}
    else:
        config[key] = 1
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "tokens").write_text("<blank>\n")
    cmd = ["--config", tmp_path / "train.yaml", "--token_list", tmp_path / "tokens"]
    with pytest.raises(UserError, match=f"{key}.*{hint}") as e:
        asr_train.main([str(c) for c in [*cmd, "--output_dir", tmp_path / "out"]])
    assert "\n" not in str(e.value)
    assert not (tmp_path / "out").exists()


def test_init_never_overwrites_pretrained_weights(tiny_config, caplog):
    import espnet_llada
    from espnet_llada.build import build_encoder

    espnet_llada.register()
    from espnet2.tasks.asr import ASRTask

    cmd = ["--output_dir", "x", "--token_list", "x", "--init", "xavier_uniform"]
    args = ASRTask.get_parser().parse_args(cmd)
    for key, value in tiny_config.items():
        setattr(args, key, value)
    built = ASRTask.build_model(args).encoder.whisper.state_dict()
    assert "init: xavier_uniform would overwrite" in caplog.text
    for name, tensor in (
        build_encoder(**tiny_config["encoder_conf"]).state_dict().items()
    ):
        assert torch.equal(built[name], tensor), name


def test_other_decoders_are_left_alone():
    import espnet_llada

    espnet_llada.register()
    espnet_llada.register()
    from espnet2.tasks.asr import ASRTask, decoder_choices

    assert decoder_choices.get_class("llada").__name__ == "LLaDADecoder"
    args = ASRTask.get_parser().parse_args(
        ["--output_dir", "x", "--token_list", "x", "--decoder", "transformer"]
    )
    args.token_list = ["<blank>", "<unk>", "a", "<sos/eos>"]
    model = ASRTask.build_model(args)
    assert type(model).__name__ == "ESPnetASRModel"
    assert model.ctc is not None
