"""local/pack_mini.py: two trained models become the package's; tiny random weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from recipe_helpers import local_script, snapshot

from espnet_llada import Speech2Text, UserError
from espnet_llada.build import build_model
from espnet_llada.inference import loading
from espnet_llada.io.checkpoint import (
    IDENTITY,
    atomic_torch_save,
    read_identity,
    read_state,
    trained_state,
)
from espnet_llada.io.weights import assets, verify
from espnet_llada.io.weights.assets import Packaged

DECODE = "decode: {steps: 2, canvas_length: 6}\n"
script = local_script("pack_mini")


@pytest.fixture
def whisper_name(tiny_whisper, monkeypatch) -> str:
    """A name for the tiny Whisper, known as the real one's is."""
    asset = Packaged("whisper", tiny_whisper, "MIT")
    monkeypatch.setitem(assets.ASSETS, "whisper-tiny", asset)
    return "whisper-tiny"


@pytest.fixture
def trained(tiny_config, whisper_name, tmp_path) -> dict[str, Path]:
    """Two trainings of an LM's own layers, as ESPnet leaves them."""
    encoder = {**tiny_config["encoder_conf"], "whisper": whisper_name}
    decoder = {**tiny_config["decoder_conf"], "lora": None, "train_lm": True}
    exps = {}
    for i, system in enumerate(("llama", "llada")):
        torch.manual_seed(i)
        config = {**tiny_config, "encoder_conf": encoder, "decoder_conf": decoder}
        config |= {"decoder": system, "output_dir": "/home/me/exp", "optim": "adamw"}
        exps[system] = tmp_path / f"exp/asr_{system}"
        exps[system].mkdir(parents=True)
        (exps[system] / "config.yaml").write_text(yaml.safe_dump(config))
        state = trained_state(build_model(config))
        atomic_torch_save(state, exps[system] / "valid.acc.ave.pth")
    (exps["llada"] / "decode.yaml").write_text(DECODE)
    return exps


@pytest.fixture
def output(tmp_path) -> Path:
    """The package's directory as it was before: a README, and a model of old."""
    path = tmp_path / "mini"
    (path / "llada").mkdir(parents=True)
    (path / "README.md").write_text("origin\n")
    (path / "llada/decode.yaml").write_text("old\n")
    return path


def pack(trained: dict[str, Path], tiny_lm: Path, output: Path, **other: Path) -> None:
    options = {**trained, "lm": tiny_lm, "output": output, **other}
    script.main([str(x) for key, v in options.items() for x in (f"--{key}", v)])


def test_packed_models_decode_as_the_trained_ones(
    trained, tiny_lm, output, speech, tmp_path, monkeypatch, capsys
):
    pack(trained, tiny_lm, output)
    files = {
        *(f"lm/{name}" for name in ("config.json", "model.safetensors")),
        *(f"lm/{name}" for name in ("tokenizer.json", "tokenizer_config.json")),
        *(f"llada/{name}" for name in ("config.yaml", "decode.yaml")),
        *("llada/model.safetensors", "llama/config.yaml", "llama/model.safetensors"),
    }
    sums = {f"{name}.sha256" for name in files}
    assert set(snapshot(output)) == {"README.md", *files, *sums}
    assert all(verify(f, fresh=True) for f in output.rglob("*.safetensors"))
    assert "MB" in capsys.readouterr().out
    assert [p.name for p in tmp_path.glob(".mini*")] == []
    assert (output / "llada/decode.yaml").read_text() == DECODE
    everything = b"".join(snapshot(output).values())
    assert str(tmp_path).encode() not in everything and b"/home" not in everything
    # The rest as a user has it: the package's LM and models by their names.
    monkeypatch.setitem(assets.ASSETS, "stories15m", Packaged("lm", output / "lm", ""))
    monkeypatch.setitem(loading.TAGS, "mini", output)
    monkeypatch.setenv("ESPNET_LLADA_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "exp")
    for system, exp in trained.items():
        files = exp / "config.yaml", exp / "valid.acc.ave.pth"
        steps = {"steps": 2, "canvas_length": 6}
        original = Speech2Text(*files, **steps)
        packed = Speech2Text.from_pretrained("mini", system, canvas_length=6)
        before, after = (
            trained_state(model.recognizer.model) for model in (original, packed)
        )
        for name in before.keys() - {IDENTITY}:
            assert after[name].dtype == before[name].dtype == torch.float32
            torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=1e-6)
        assert [packed(p)[0][0] for p in speech] == [original(p)[0][0] for p in speech]


def test_what_is_written(trained, tiny_lm, output, whisper_name, tiny_config):
    pack(trained, tiny_lm, output)
    state = read_state(output / "llama/model.safetensors")
    names = {part: w["name"] for part, w in read_identity(state, output).items()}
    assert names == {"encoder": whisper_name, "decoder": "stories15m"}
    del state[IDENTITY]
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    config = yaml.safe_load((output / "llama/config.yaml").read_text())
    assert set(config) == {"decoder", *(k for k in tiny_config if k != "decoder")}
    assert config["decoder_conf"]["lm"] == "stories15m"
    assert config["encoder_conf"]["whisper"] == whisper_name


def test_options_of_training_alone_are_left_out(tiny_config, whisper_name):
    prefix = {"copy_head": True, "text_injection": True, "acoustic_confusion": 0.1}
    config = {**tiny_config, "encoder_conf": {"whisper": whisper_name}}
    config["decoder_conf"] = {
        **{"compile_layers": True, "ctc": {"weight": 0.0}},
        "posterior_prefix": prefix,
    }
    kept = script.inference_config(config, Path("x"))["decoder_conf"]
    expected = {"ctc": {"weight": 0.0}, "posterior_prefix": {"copy_head": True}}
    assert kept == {**expected, "lm": "stories15m"}
    assert len(prefix) == 3, "the training's own config is as it was"


def spoil_config(exp: Path, section: str, **values: object) -> None:
    config = yaml.safe_load((exp / "config.yaml").read_text())
    config[section] = {**config[section], **values} if values else "other"
    (exp / "config.yaml").write_text(yaml.safe_dump(config))


def test_what_does_not_fit_is_refused_and_the_old_output_stays(
    trained, tiny_lm, tiny_whisper, output, tmp_path, monkeypatch
):
    old = snapshot(output)

    def refused(message: str, **other: Path) -> None:
        with pytest.raises(UserError, match=message) as e:
            pack(trained, tiny_lm, output, **other)
        assert "\n" not in str(e.value)
        assert snapshot(output) == old and not list(tmp_path.glob(".mini*"))

    refused("no config.json in it", lm=tmp_path)
    refused("decoder llada, not llama", llama=trained["llada"])
    monkeypatch.setattr(script, "MAX_BYTES", 100_000)
    refused("MB of trained tensors")
    monkeypatch.undo()
    asset = Packaged("whisper", tiny_whisper, "MIT")
    monkeypatch.setitem(assets.ASSETS, "whisper-tiny", asset)
    other_lm = tmp_path / "other"
    shutil.copytree(tiny_lm, other_lm)
    state = read_state(other_lm / "model.safetensors")
    state["model.norm.weight"] = state["model.norm.weight"] * 2
    script.write_model(other_lm, {}, state)
    refused(r"was trained on the LM '.*tiny_lm.*', whose .*other; name", lm=other_lm)
    state = read_state(trained["llada"] / "valid.acc.ave.pth")
    bias = "decoder.audio_prefix.projection.bias"
    state[bias] = state[bias] + 1e5
    atomic_torch_save(state, trained["llada"] / "valid.acc.ave.pth")
    refused(f"{bias} has values that float16")
    spoil_config(trained["llama"], "encoder_conf", whisper=str(tiny_whisper))
    refused("is a path; train with a name")
    spoil_config(trained["llama"], "encoder")
    refused("not of this package")
