"""A toy GGUF becomes a Hugging Face directory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from espnet_llada.import_guards import import_torchaudio
from espnet_llada.types import UserError

import_torchaudio()
gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")

WIDTH, HEADS, INNER = 8, 2, 16
TOKENS = ["<|end|>", "<|start|>", "h", "i", "Ġ", "1", "hi"]
TEMPLATE = "{{ messages[0]['content'] }}<|end|>"


def write_gguf(path: Path, pre: str = "smollm") -> np.ndarray:
    """A one-layer Llama with a byte-level BPE; returns its embedding matrix."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    kinds = [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * 5
    writer.add_token_types(kinds)
    writer.add_token_merges(["h i"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(0)

    def add(name: str, *shape: int) -> np.ndarray:
        tensor = random.standard_normal(shape).astype(np.float32)
        writer.add_tensor(name, tensor)
        return tensor

    embedding = add("token_embd.weight", len(TOKENS), WIDTH)
    add("output_norm.weight", WIDTH)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        add(f"blk.0.{name}.weight", WIDTH, WIDTH)
    for name in ("attn_norm", "ffn_norm"):
        add(f"blk.0.{name}.weight", WIDTH)
    for name in ("ffn_gate", "ffn_up"):
        add(f"blk.0.{name}.weight", INNER, WIDTH)
    add("blk.0.ffn_down.weight", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return embedding


def test_converted_model_and_tokenizer_load(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from espnet_llada.io.weights.gguf_conversion import convert

    embedding = write_gguf(tmp_path / "toy.gguf")
    home = tmp_path / "home"
    home.mkdir()
    convert(tmp_path / "toy.gguf", home)

    config = json.loads((home / "config.json").read_text())
    assert "quantization_config" not in config  # else it is dequantized once more
    assert config["rope_theta"] == 100000.0  # where transformers 4 looks for it
    assert str(tmp_path) not in json.dumps(config)
    model = AutoModelForCausalLM.from_pretrained(home, dtype=torch.float16)
    assert type(model).__name__ == "LlamaForCausalLM"
    np.testing.assert_array_equal(
        model.get_input_embeddings().weight.detach().numpy(),
        embedding.astype(np.float16),
    )
    assert model.lm_head.weight is model.get_input_embeddings().weight

    tokenizer = AutoTokenizer.from_pretrained(home)
    assert tokenizer.eos_token_id == 0
    assert tokenizer.bos_token_id == 1
    assert tokenizer("hi h11<|end|>").input_ids == [6, 4, 2, 5, 5, 0]  # no BOS in front
    assert tokenizer.decode([6, 4, 6]) == "hi hi"
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False
    )
    assert chat == "hi<|end|>"


def test_tokenizer_of_another_kind_is_refused(tmp_path):
    from espnet_llada.io.weights.gguf_conversion import convert

    write_gguf(tmp_path / "toy.gguf", pre="llama-bpe")
    with pytest.raises(UserError, match=r"toy.gguf: not a SmolLM tokenizer"):
        convert(tmp_path / "toy.gguf", tmp_path)
