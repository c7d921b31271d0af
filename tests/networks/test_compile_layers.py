"""``compile_layers``: the loss and gradients of the plain layers, in training alone."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from espnet_llada.build import build_model, compile_layers
from espnet_llada.core.model import WhisperLLM
from espnet_llada.core.objective import Targets
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.recognizer import Recognizer
from espnet_llada.networks.encoder import run_block
from espnet_llada.networks.llama import run_layer
from espnet_llada.networks.windows import read_layer


def build(tiny_config, kind: str, compiled: bool) -> WhisperLLM:
    torch.manual_seed(0)
    config = {**tiny_config, "decoder": kind}
    config["postencoder_conf"] = {**config["postencoder_conf"], "dropout": 0.0}
    lora = {**config["decoder_conf"]["lora"], "dropout": 0.0}
    config["decoder_conf"] = {
        **config["decoder_conf"],
        "lora": lora,
        "compile_layers": compiled,
    }
    return build_model(config)


def gradients(model: WhisperLLM, rows: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(rows)
    speech = 0.1 * torch.randn(rows, 9_000 + 4_000 * rows, generator=random)
    text = torch.randint(10, 200, (rows, 3 + rows), generator=random)
    audio = model.encode(speech, torch.tensor([speech.shape[1]] * rows))
    targets = Targets(text, torch.tensor([3 + rows] * rows))
    model.zero_grad()
    model.decoder.training_loss(*audio, targets, range(rows)).mean.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llada", "llama"])
def test_it_learns_the_same(tiny_config, kind, monkeypatch):
    real = partial(compile_layers, backend="aot_eager")
    monkeypatch.setattr("espnet_llada.build.compile_layers", real)
    plain, model = (build(tiny_config, kind, c).train() for c in (False, True))
    assert plain.decoder.lm.body.run is run_layer
    assert model.decoder.lm.body.run is not run_layer
    assert model.encoder.run is not plain.encoder.run is run_block
    assert (
        model.postencoder.layers.run is not plain.postencoder.layers.run is read_layer
    )
    assert model.state_dict().keys() == plain.state_dict().keys()
    for rows in (2, 3):  # another shape
        expected = gradients(plain, rows)
        for name, gradient in gradients(model, rows).items():
            torch.testing.assert_close(gradient, expected[name], msg=name)


def test_decoding_compiles_nothing(tiny_config):
    model = build(tiny_config, "llada", True).eval()

    def run(*_):
        raise AssertionError("compiled")

    model.encoder.run = model.postencoder.layers.run = model.decoder.lm.body.run = run
    speech = np.random.default_rng(0).normal(0, 0.1, 8_000).astype(np.float32)
    Recognizer(model, SamplerOptions(steps=2, canvas_length=4)).decode([speech], ["a"])
    with pytest.raises(AssertionError, match="compiled"):
        gradients(model.train(), 2)
