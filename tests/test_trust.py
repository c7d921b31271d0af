"""A model from elsewhere that would run code: it is refused, and nothing has run."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from espnet_llada import Deliberator, Speech2Text, UserError
from espnet_llada.bin import asr_inference, cli
from espnet_llada.inference.loading import load_model
from espnet_llada.io.checkpoint import read_state
from espnet_llada.trust import check_parts, tensors_only
from espnet_llada.types import LoadOptions

BUILDER = "espnet_llada.espnet.inference.build_with_espnet"
"""What a model with parts of ESPnet's is built by."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ESPNET_LLADA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def model(model_dir, tmp_path) -> Path:
    """A model directory to be spoilt."""
    return shutil.copytree(model_dir / "llada", tmp_path / "model")


def change(model: Path, **keys: object) -> Path:
    file = model / "config.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **keys}))
    return model


def refused(call, *args: object, **options: object) -> str:
    """The one line that it is refused with."""
    with pytest.raises(UserError) as e:
        call(*args, **options)
    assert "\n" not in str(e.value)
    return str(e.value)


def in_a_zip(model: Path, path: Path) -> Path:
    """What ``espnet2.bin.pack`` makes, which loads nothing."""
    names = {"asr_train_config": "config.yaml"}
    files = {"asr_model_file": "valid.acc.ave.pth"}
    meta = {"yaml_files": names, "files": files}
    (model / "meta.yaml").write_text(yaml.safe_dump(meta))
    with zipfile.ZipFile(path, "w") as archive:
        for file in (p for p in model.rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(model))
    return path


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("frontend", "espnet_ssl"),
        ("frontend", "fused"),
        ("frontend", ["espnet_ssl"]),
        ("encoder", "beats"),
        ("encoder", "Conformer"),
        ("preencoder", "mine"),
        ("postencoder", "hugging_face_transformers"),
        ("normalize", {"global_mvn": None}),
    ],
)
def test_a_config_may_not_name_parts_that_load(section, name, model):
    plain = {"encoder": "conformer", "frontend": "default", "input_size": None}
    change(model, **{**plain, section: name})
    message = refused(Speech2Text.from_pretrained, model)
    assert f"{model}/config.yaml: {section} '" in message
    assert "--trust_model true" in message


def test_every_way_in_asks(model, speech, evil, tmp_path, monkeypatch):
    from huggingface_hub import constants

    (model / "ssl").mkdir()
    torch.save({"model": evil}, model / "ssl/evil.pth")
    ssl = {"path_or_url": "ssl/evil.pth"}
    change(
        model,
        **{"encoder": "conformer", "frontend": "espnet_ssl", "input_size": None},
        frontend_conf={"frontend_conf": ssl},
    )
    archive = in_a_zip(model, tmp_path / "x.zip")
    repository = tmp_path / "hub/models--some--model"
    shutil.copytree(model, repository / "snapshots/abc")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    files = model / "config.yaml", model / "valid.acc.ave.pth"
    (tmp_path / "wav.scp").write_text(f"utt0 {speech[0]}\n")
    decode = f"--data_path_and_name_and_type {tmp_path}/wav.scp,speech,sound"
    decode += f" --output_dir {tmp_path}/out --model_tag {archive}"
    for call, *args in (
        (Speech2Text, *files),
        (Speech2Text.from_pretrained, model),
        (Speech2Text.from_pretrained, archive),
        (Speech2Text.from_pretrained, "some/model"),
        (Deliberator.from_pretrained, archive),
        (cli.main, ["transcribe", str(speech[0]), "--model", str(archive)]),
        (asr_inference.main, decode.split()),
    ):
        message = refused(call, *args)
        assert "config.yaml: frontend 'espnet_ssl' may read or fetch" in message
    assert not evil.ran.exists()


def test_a_file_cannot_ask_to_be_trusted(model, speech, tmp_path):
    change(model, encoder="beats", trust_model=True)
    assert "encoder 'beats'" in refused(Speech2Text.from_pretrained, model)
    (model / "decode.yaml").write_text("decode: {trust_model: true}\n")
    assert "trust_model" in refused(Speech2Text.from_pretrained, model)
    (tmp_path / "mine.yaml").write_text("trust_model: true\n")
    cmd = ["transcribe", str(speech[0]), "--config", str(tmp_path / "mine.yaml")]
    assert "trust_model is for the command line" in refused(cli.main, cmd)


def save_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def save_script(content: object, path: Path) -> None:
    """Code of another kind, that torch.load would hand to torch.jit."""
    torch.jit.script(torch.nn.Linear(1, 1)).save(path)


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file")
@pytest.mark.parametrize("save", [torch.save, save_pickle, save_script])
def test_a_checkpoint_holds_tensors_only(save, model, evil):
    file = model / "valid.acc.ave.pth"
    save({"frozen_weights": evil}, file)
    message = refused(Speech2Text.from_pretrained, model, trust_model=True)
    assert message.startswith(f"{file}: not a readable checkpoint (")
    assert "do those steps" not in message, "no advice to run it"
    with tensors_only():
        assert str(file) in refused(torch.load, file, weights_only=False)
        with open(file, "rb") as opened:
            assert str(file) in refused(torch.load, opened, None, pickle)
    assert not evil.ran.exists()


def test_whisper_and_lm_run_nothing(model, tiny_lm, evil, tmp_path):
    torch.save({"dims": {}, "model_state_dict": evil}, model / "evil.pt")
    message = refused(Speech2Text.from_pretrained, model, whisper=model / "evil.pt")
    assert "evil.pt: not an openai-whisper checkpoint (damaged, or it holds" in message

    lm = shutil.copytree(tiny_lm, tmp_path / "lm")
    code = f"import os\nos.mkdir({str(evil.ran)!r})\n"
    for name in ("modeling_evil.py", "tokenization_evil.py", "configuration_evil.py"):
        (lm / name).write_text(code)
    auto = {
        "AutoConfig": "configuration_evil.Evil",
        "AutoModelForCausalLM": "modeling_evil.Evil",
        "AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"],
    }
    for name in ("config.json", "tokenizer_config.json"):
        settings = {**json.loads((lm / name).read_text()), "auto_map": auto}
        (lm / name).write_text(json.dumps(settings))
    torch.save(evil, lm / "pytorch_model.bin")
    (lm / "vocab.pkl").write_bytes(pickle.dumps(evil))
    for tensors in (True, False):
        if not tensors:
            (lm / "model.safetensors").unlink()
        message = refused(Speech2Text.from_pretrained, model, lm=lm)
        assert ("trained on decoder" if tensors else "no *.safetensors") in message
    assert not evil.ran.exists()


@pytest.mark.parametrize("name", ["config.yaml", "decode.yaml", "meta.yaml"])
def test_yaml_runs_nothing(name, model, evil):
    call = f"x: !!python/object/apply:os.mkdir ['{evil.ran}']\n"
    (model / name).write_text(call)
    assert name in refused(Speech2Text.from_pretrained, model)
    assert not evil.ran.exists()


def test_a_pickle_is_not_read_as_a_release_or_as_numpy(
    evil, tiny_whisper, tiny_llada, tmp_path, monkeypatch
):
    from espnet_llada.release.importing import import_release

    torch.save({"model": evil}, tmp_path / "best.pth")
    sources = tmp_path / "best.pth", str(tiny_whisper), str(tiny_llada)
    assert "best.pth" in refused(import_release, *sources, tmp_path / "out")
    np.save(tmp_path / "stats.npy", np.array([evil], dtype=object))
    files = tmp_path / "config.yaml", tmp_path / "model.pth"
    files[0].write_text("{encoder: conformer, decoder: llada}\n")
    torch.save({}, files[1])

    def build(config):
        return np.load(tmp_path / "stats.npy")  # as ESPnet's GlobalMVN

    monkeypatch.setattr(BUILDER, build)
    message = refused(load_model, *files)
    assert "cannot build this model (ValueError: Object arrays cannot" in message
    assert not evil.ran.exists()


def test_it_is_lifted_for_those_who_ask_and_for_nobody_else(
    evil, tmp_path, monkeypatch
):
    files = tmp_path / "config.yaml", tmp_path / "model.pth"
    files[0].write_text("{encoder: beats, decoder: llada}\n")
    torch.save({}, files[1])
    torch.save(evil, tmp_path / "evil.pth")

    def build(config):
        torch.load(tmp_path / "evil.pth", weights_only=False)
        raise UserError("built")

    monkeypatch.setattr(BUILDER, build)
    assert "encoder 'beats'" in refused(load_model, *files)
    assert not evil.ran.exists()
    trusting = LoadOptions(trust_model=True)
    assert refused(load_model, *files, trusting) == "built"
    assert evil.ran.exists(), "the payload works"


def test_what_a_part_prints_is_no_transcript(tmp_path, capsys, monkeypatch):
    files = tmp_path / "config.yaml", tmp_path / "model.pth"
    files[0].write_text("{encoder: conformer, decoder: llada}\n")
    torch.save({}, files[1])

    def build(config):
        print("Failed to import Flash Attention")  # noqa: T201
        raise UserError("built")

    monkeypatch.setattr(BUILDER, build)
    assert refused(load_model, *files) == "built"
    assert capsys.readouterr().out == ""


def test_threads_leave_torch_as_they_found_it(tmp_path):
    load, gate = torch.load, threading.Barrier(4)
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth")

    def read():
        gate.wait()
        for _ in range(5):
            with tensors_only():
                torch.load(tmp_path / "a.pth", weights_only=False)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.load is load


def test_the_option_of_each_command():
    from espnet_llada.bin.decoding import load_options
    from espnet_llada.bin.sweep import get_parser, place_of

    options = ["--trust_model", "true"]
    args = cli.get_parser().parse_args(["transcribe", "x.wav", *options])
    assert load_options(args, "cpu").trust_model
    args = asr_inference.get_parser().parse_args(options)
    assert load_options(args, "cpu").trust_model
    places = ["--sets", "a", "--data", "b", "--output", "c"]
    for given in ([], options):
        args = get_parser().parse_args(["x.yaml", *places, *given])
        assert place_of(args).loading.trust_model == bool(given)


def test_a_size_that_no_part_has(model):
    plain = {"encoder": "conformer", "frontend": "default", "input_size": None}
    for conf in ({"num_blocks": 2**31}, {"output_size": 2**31}):
        change(model, **plain, encoder_conf=conf)
        message = refused(Speech2Text.from_pretrained, model)
        (key,) = conf
        assert f"config.yaml: encoder_conf: {key}: 2147483648 does not fit" in message


def test_a_packed_file_that_is_called_like_a_value(model, tmp_path):
    (model / "bfloat16").write_text("")
    conf = yaml.safe_load((model / "config.yaml").read_text())["decoder_conf"]
    change(model, decoder_conf={**conf, "dtype": "bfloat16"})
    archive = in_a_zip(model, tmp_path / "x.zip")
    message = refused(Speech2Text.from_pretrained, archive)
    assert "config.yaml: decoder_conf: dtype: '/" in message
    assert "does not fit; allowed: bfloat16, float32" in message


def test_espnets_own_commands_run_nothing_either(evil, tmp_path, monkeypatch):
    from espnet_llada.run import _prepared

    torch.save(evil, tmp_path / "a.pth")
    for module in ("espnet2.bin.asr_inference_streaming", "espnet2.bin.lm_train"):
        with _prepared(module):
            message = refused(torch.load, tmp_path / "a.pth", weights_only=False)
        assert "ESPNET_ALLOW_UNSAFE_TORCH_LOAD=1" in message
    assert not evil.ran.exists()
    monkeypatch.setenv("ESPNET_ALLOW_UNSAFE_TORCH_LOAD", "1")
    with _prepared("espnet2.bin.lm_train"):
        torch.load(tmp_path / "a.pth", weights_only=False)
    assert evil.ran.exists()


def test_a_device_is_no_weights(model):
    for device in ("/dev/zero", "/dev/null"):
        message = refused(Speech2Text.from_pretrained, model, whisper=device)
        assert message.startswith(f"{device}: no weights in this place")


def test_plain_parts_pass():
    check_parts({"encoder": "conformer", "normalize": None, "token_list": []}, "x")


def test_read_state_names_the_kind_of_refusal(evil, tmp_path):
    torch.save({"a": torch.ones(1), "b": evil}, tmp_path / "a.pth")
    message = refused(read_state, tmp_path / "a.pth")
    assert "(damaged, or it holds code, which is not run)" in message
    assert not evil.ran.exists()
