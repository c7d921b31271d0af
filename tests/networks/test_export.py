"""An LM written in the Llama layout is the LM that was read."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from espnet_llada.networks import llama_export as export
from espnet_llada.networks.backbone import Backbone
from espnet_llada.networks.llama_export import Update, export_llama
from espnet_llada.networks.tokenizer import LMTokenizer

TOKENS = torch.randint(1, 200, (1, 9), generator=torch.Generator().manual_seed(2))


def logits(path, attention="bidirectional") -> torch.Tensor:
    lm = Backbone.from_pretrained(path, attention)
    valid = torch.ones_like(TOKENS, dtype=torch.bool)
    with torch.no_grad():
        return lm.logits(lm(lm.embed(TOKENS), valid))


@pytest.mark.parametrize("shard_bytes", [20_000, 10**9])
@pytest.mark.parametrize("kind", ["tiny_llada", "tiny_lm"])
def test_same_logits_mask_and_tokenizer(
    request, tmp_path, monkeypatch, kind, shard_bytes
):
    source = request.getfixturevalue(kind)
    monkeypatch.setattr(export, "SHARD_BYTES", shard_bytes)
    export_llama(source, tmp_path)
    files = sorted(f.name for f in tmp_path.glob("*.safetensors"))
    index = tmp_path / "model.safetensors.index.json"
    if shard_bytes == 10**9:
        assert files == ["model.safetensors"] and not index.exists()
    else:
        assert len(files) > 2 and files[0].startswith("model-00001-of-0000")
        where = json.loads(index.read_text())["weight_map"]
        for file in files:
            names = {n for n, f in where.items() if f == file}
            assert names == set(load_file(tmp_path / file))
    assert torch.equal(logits(tmp_path), logits(source))
    one = Backbone.from_pretrained(tmp_path, "bidirectional")
    assert one.mask_id == Backbone.from_pretrained(source, "bidirectional").mask_id
    text = "she sang of the sea"
    assert LMTokenizer(tmp_path).encode(text) == LMTokenizer(source).encode(text)


def test_transformers_reads_it(tiny_llada, tmp_path):
    export_llama(tiny_llada, tmp_path)
    reference = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.allclose(
            reference(TOKENS).logits, logits(tiny_llada, "causal"), atol=1e-5
        )


def test_dtype_and_update(tiny_lm, tmp_path):
    name = "layers.1.self_attn.k_proj.weight"
    old = load_file(tiny_lm / "model.safetensors")[f"model.{name}"]
    a, b = torch.randn(3, old.shape[1]), torch.randn(old.shape[0], 3)
    export_llama(tiny_lm, tmp_path, torch.bfloat16, {name: Update(a, b, 0.5)})
    tensors = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    exact = (old.double() + 0.5 * b.double() @ a.double()).to(torch.bfloat16)
    assert torch.allclose(tensors[f"model.{name}"].float(), exact.float(), rtol=2**-7)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == (
        "bfloat16"
    )
