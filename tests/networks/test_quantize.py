"""Linear layers and the vocabulary's tables in int8."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from espnet_llada import Speech2Text
from espnet_llada.inference.loading import find_model, load_model
from espnet_llada.networks.frozen import scores
from espnet_llada.types import LoadOptions, UserError


def int8_layers(model: nn.Module) -> set[str]:
    kind = torch.ao.nn.quantized.dynamic.Linear
    return {name for name, module in model.named_modules() if type(module) is kind}


def test_encoder_adapter_and_lm_are_quantized_and_say_nearly_the_same(model_dir):
    files = find_model(model_dir)
    plain = load_model(*files)
    small = load_model(*files, LoadOptions(quantize_asr_model=True))
    names = int8_layers(small)
    for part in ("encoder.blocks.0.mlp.0", "postencoder.", "decoder.lm.body.layers."):
        assert any(name.startswith(part) for name in names), part
    speech, lengths = 0.1 * torch.randn(2, 16000), torch.tensor([16000, 9000])
    with torch.no_grad():
        expected, _ = plain.encode(speech, lengths)
        found, _ = small.encode(speech, lengths)
    assert not torch.equal(found, expected)
    # The Q-Former ends with a LayerNorm: values of order 1.
    assert (found - expected).abs().mean() < 0.05


def test_a_quantized_model_transcribes(model_dir):
    speech2text = Speech2Text.from_pretrained(model_dir, quantize_asr_model=True)
    waveform = np.random.default_rng(0).normal(size=16000).astype(np.float32)
    text, *_ = speech2text(waveform)[0]
    assert isinstance(text, str)


def test_the_vocabularys_table_is_quantized_too_for_products_alone(model_dir):
    files = find_model(model_dir)
    lm = load_model(*files, LoadOptions(quantize_asr_model=True)).decoder.lm
    plain = load_model(*files).decoder.lm
    torch.testing.assert_close(lm.head, plain.head, rtol=0, atol=0)
    hidden = torch.randn(2, 3, lm.head.shape[1])
    expected, found = plain.logits(hidden), lm.logits(hidden)
    assert found.shape == expected.shape
    assert not torch.equal(found, expected)
    assert (found - expected).abs().mean() < 0.02 * expected.std()
    out = torch.empty_like(expected)
    assert scores(hidden, lm.head, out=out) is out
    torch.testing.assert_close(out, found, rtol=0, atol=0)


def test_what_cannot_be_quantized_is_refused_before_anything_is_read():
    with pytest.raises(UserError, match="on CPUs only, not on cuda"):
        load_model("no.yaml", "no.pth", LoadOptions("cuda", quantize_asr_model=True))
