"""An LM written in the Llama layout, or merged in its own, is the LM that was read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from espnet_llada.networks import llama_export as export
from espnet_llada.networks.backbone import Backbone
from espnet_llada.networks.llama_export import Update, export_llama, export_merged
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
    export_merged(tiny_lm, tmp_path, {name: Update(a, b, 0.5)}, torch.bfloat16)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    exact = (old.double() + 0.5 * b.double() @ a.double()).to(torch.bfloat16)
    assert torch.allclose(tensors[f"model.{name}"].float(), exact.float(), rtol=2**-7)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == (
        "bfloat16"
    )


@pytest.fixture
def hub_llada(tiny_llada, tmp_path) -> Path:
    """tiny_llada in bf16 with what else the hub's LLaDA-8B-Instruct has."""
    path = shutil.copytree(tiny_llada, tmp_path / "hub")
    weights = path / "model-00001.safetensors"
    save_file({k: t.bfloat16() for k, t in load_file(weights).items()}, weights)
    config = json.loads((path / "config.json").read_text()) | HUB_KEYS
    (path / "config.json").write_text(json.dumps(config))
    code = "configuration_llada.py", "modeling_llada.py"
    for name in ("generation_config.json", "special_tokens_map.json", *code):
        (path / name).write_text("{}")
    return path


HUB_KEYS = {
    "activation_type": "silu",
    "architectures": ["LLaDAModelLM"],
    "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
    "block_type": "llama",
    "include_bias": False,
    "layer_norm_type": "rms",
    "pad_token_id": 0,
    "rope": True,
    "torch_dtype": "bfloat16",
}
"""Some of those that only LLaDA's own code reads."""


def test_a_merged_llada_is_one_of_the_hub(hub_llada, tmp_path, monkeypatch):
    name, target = "layers.1.self_attn.q_proj.weight", tmp_path / "out"
    target.mkdir()
    monkeypatch.setattr(export, "SHARD_BYTES", 10_000)
    a, b = torch.randn(3, 32), torch.randn(32, 3)
    export_merged(hub_llada, target, {name: Update(a, b, 0.5)})
    index = json.loads((target / "model.safetensors.index.json").read_text())
    where, found = index["weight_map"], {}
    assert len(set(where.values())) > 2
    for file in set(where.values()):
        found |= load_file(target / file)
    source = load_file(hub_llada / "model-00001.safetensors")
    assert set(found) == set(source) == set(where)
    merged = "model.transformer.blocks.1.q_proj.weight"
    changed = {k for k in found if not torch.equal(found[k], source[k])}
    assert changed == {merged}
    exact = source[merged].double() + 0.5 * b.double() @ a.double()
    assert torch.equal(found[merged], exact.bfloat16())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in found.values())
    config = json.loads((hub_llada / "config.json").read_text())
    del config["auto_map"]  # names code that is not there
    assert json.loads((target / "config.json").read_text()) == config
    copied = {f.name for f in target.iterdir() if "safetensors" not in f.name}
    assert copied == {f.name for f in hub_llada.iterdir() if f.suffix == ".json"}
    assert LMTokenizer(target).prompt("x", True) == [
        *LMTokenizer(hub_llada).prompt("x", True)
    ]


def test_a_merged_llama_stays_one(tiny_lm, tmp_path):
    export_merged(tiny_lm, tmp_path, {})
    assert torch.equal(logits(tmp_path), logits(tiny_lm))
    one, other = (
        json.loads((p / "config.json").read_text()) for p in (tmp_path, tiny_lm)
    )
    assert one["model_type"] == "llama" and one["hidden_size"] == other["hidden_size"]
