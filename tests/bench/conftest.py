"""Train configs of tiny shapes, for random weights."""

from __future__ import annotations

import pytest


@pytest.fixture()
def configs(tiny_config, tiny_llada):
    """Train configs of both systems, as the 8B ones are written: padded, bf16."""
    encoder = {**tiny_config["encoder_conf"], "pad_seconds": 30.0, "keep_padding": True}
    lm = {"lora": {"r": 2, "alpha": 4, "dropout": 0.0}, "dtype": "bfloat16"}
    llada = {**tiny_config, "encoder_conf": {**encoder, "dtype": "bfloat16"}}
    llada["postencoder_conf"] = {**tiny_config["postencoder_conf"], "dropout": 0.0}
    llada["decoder_conf"] = {**lm, "lm": str(tiny_llada), "loss": "release"}
    llama = {**llada, "decoder": "llama"}
    llama["decoder_conf"] = {**lm, "lm": tiny_config["decoder_conf"]["lm"]}
    return {"llada": llada, "llama": llama}
