"""ESPnet3's inference.yaml names our Speech2Text, and ESPnet3 does the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from espnet_llada import Speech2Text
from espnet_llada.build import build_model
from espnet_llada.io.checkpoint import trained_state

OmegaConf = pytest.importorskip("omegaconf").OmegaConf
instantiate = pytest.importorskip("hydra.utils").instantiate
pytest.importorskip(
    "espnet3.systems.base.inference",
    reason="no ESPnet3: it comes with ESPnet 202611, see tests/recipe/asr_sh.sh",
    exc_type=ImportError,
)

# What is ours in egs3/*/esp2_asr/conf/inference.yaml; the recipe's README has it too.
MODEL = """
model:
  _target_: espnet_llada.Speech2Text
  asr_train_config: ${exp_dir}/config.yaml
  asr_model_file: ${exp_dir}/valid.acc.ave.pth
  steps: 2
"""
REST = """
dataset:
  _target_: espnet3.components.data.data_organizer.DataOrganizer
  _recursive_: false
  recipe_dir: ${recipe_dir}
  test: [{name: test}]
  preprocessor:
input_key: speech
contract:
  inputs: {speech: {kind: audio, sample_rate: 16000, channels: 1}}
  outputs: {text: {kind: text}}
provider: {_target_: espnet3.systems.base.inference_provider.InferenceProvider}
runner: {_target_: espnet3.systems.esp2_asr.inference.ASRInferenceRunner}
"""
DATASET = """
from pathlib import Path

import soundfile
from espnet3.components.data.base_dataset import BaseDataset
from espnet3.contract import Field


class Dataset(BaseDataset):
    fields = (Field("utt_id", "text"), Field("speech", "audio"))

    def __init__(self, recipe_dir=None):
        self.paths = sorted(Path(__file__).parents[1].glob("*.flac"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        samples, rate = soundfile.read(self.paths[i], dtype="float32")
        return {"utt_id": self.paths[i].stem, "speech": (rate, samples)}
"""


@pytest.fixture
def recipe(tiny_config, speech, tmp_path) -> Path:
    """An ESPnet3 recipe's directory with a model in exp/; ``speech`` lies in it too."""
    torch.manual_seed(0)
    state = trained_state(build_model(tiny_config))
    for name in ("exp", "dataset"):
        (tmp_path / name).mkdir()
    (tmp_path / "exp/config.yaml").write_text(yaml.safe_dump(tiny_config))
    torch.save(state, tmp_path / "exp/valid.acc.ave.pth")
    (tmp_path / "dataset/__init__.py").write_text(DATASET)
    return tmp_path


def run_inference(config) -> None:
    """espnet3.systems.base.inference.infer less its process pool, which needs dask."""
    config.test_set = "test"
    params = {"input_key": "speech", "idx_key": "utt_id", "output_keys": None}
    params["inference_contract"] = OmegaConf.to_container(config.contract)
    provider = instantiate(
        config.provider, inference_config=config, params=params, _recursive_=False
    )
    runner = instantiate(
        config.runner,
        provider=provider,
        batch_size=config.batch_size,
        output_dir=Path(config.inference_dir) / "test",
        hyp_key=[],
        ref_key=[],
    )
    assert runner(range(len(provider.build_dataset(config))))


@pytest.mark.parametrize("batch_size", [None, 2])
def test_inference_yaml_names_our_class(recipe, speech, batch_size):
    where = {"recipe_dir": str(recipe), "exp_dir": str(recipe / "exp")}
    where |= {"inference_dir": str(recipe / "out"), "batch_size": batch_size}
    config = OmegaConf.merge(where, OmegaConf.create(MODEL), OmegaConf.create(REST))
    run_inference(config)

    out = recipe / "exp"
    ours = Speech2Text(out / "config.yaml", out / "valid.acc.ave.pth", steps=2)
    expected = {path.stem: ours(path)[0][0] for path in speech}
    lines = (recipe / "out/test/text.scp").read_text(encoding="utf-8").splitlines()
    assert dict((line + " ").split(" ", 1) for line in lines) == {
        utt: f"{text} " for utt, text in expected.items()
    }
    assert len(set(expected.values())) > 1
