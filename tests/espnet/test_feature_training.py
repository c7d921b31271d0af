"""ESPnet trains on cached frames as it trains on the waveforms they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from espnet_llada.bin import features
from espnet_llada.types import UserError

pytest.importorskip("espnet2")

from train_helpers import SETTINGS, three_utterances


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return three_utterances(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def config(tiny_config, tmp_path_factory) -> Path:
    settings = {
        **SETTINGS,
        **tiny_config,
        "batch_size": 1,
        "best_model_criterion": [["valid", "acc", "max"]],
        "seed": 1,
    }
    path = tmp_path_factory.mktemp("config") / "train.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def extract(config: Path, data: Path, out: Path, storage: str) -> Path:
    cmd = ["--config", config, "--wav_scp", data / "wav.scp", "--output", out]
    # One row at a time, as in the training below: equal to the bit.
    options = ["--storage", storage, "--batch_seconds", "0.1"]
    features.main([*map(str, cmd), *options])
    return out


def train(config: Path, folder: Path, kind: str, out: Path, *extra: str) -> dict:
    """The trained tensors after one epoch on ``folder``."""
    from espnet_llada.espnet.task import ASRTask

    scp, shape = ("wav.scp", "shape") if kind == "sound" else ("feats.scp", "shape")
    if kind == "kaldi_ark":
        lines = (folder / "feats_shape").read_text()
        (folder / "shape").write_text(lines)
    (out.parent / "tokens.txt").write_text("<blank>\n<unk>\n<sos/eos>\n")
    cmd = ["--config", config, "--output_dir", out, "--ngpu", 0]
    cmd += ["--token_list", out.parent / "tokens.txt", "--bpemodel", "unused"]
    cmd += ["--token_type", "hugging_face"]
    for split in ("train", "valid"):
        for source in (f"{folder}/{scp},speech,{kind}", f"{folder}/text,text,text"):
            cmd += [f"--{split}_data_path_and_name_and_type", source]
        cmd += [f"--{split}_shape_file", folder / shape]
    ASRTask.main(cmd=[*map(str, cmd), *extra])
    return torch.load(out / "1epoch.pth", weights_only=True)


@pytest.fixture(scope="module")
def on_waveforms(config, data, tmp_path_factory) -> dict:
    return train(config, data, "sound", tmp_path_factory.mktemp("wave") / "out")


@pytest.mark.parametrize(
    ("storage", "error"),
    [("float16", 2e-3), pytest.param("float32", 0.0, marks=pytest.mark.slow)],
)
def test_training_on_frames_is_training_on_waveforms(
    config, data, on_waveforms, tmp_path, storage, error
):
    folder = extract(config, data, tmp_path / "features", storage)
    state = train(config, folder, "kaldi_ark", tmp_path / "out")
    assert state.keys() == on_waveforms.keys()
    for name, tensor in state.items():
        # AdamW's first steps are lr long whatever the gradient: hence the tolerance.
        assert (tensor - on_waveforms[name]).abs().max() <= error, name


def test_frames_with_other_padding_are_refused(config, data, tmp_path):
    folder = extract(config, data, tmp_path / "features", "float32")
    settings = yaml.safe_load(config.read_text())
    settings["encoder_conf"]["pad_seconds"] = 2.0
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(settings))
    with pytest.raises(
        UserError, match=r"pad_seconds 0\.0, but the config says.* 2\.0"
    ):
        train(other, folder, "kaldi_ark", tmp_path / "out")


def test_speech_of_another_width_is_refused(tiny_config):
    from espnet_llada.espnet.modules import FrozenWhisperEncoder

    encoder = FrozenWhisperEncoder(1, **tiny_config["encoder_conf"])
    with pytest.raises(UserError, match=r"2 columns.*frames of 16"):
        encoder(torch.zeros(1, 100, 2), torch.tensor([100]))
