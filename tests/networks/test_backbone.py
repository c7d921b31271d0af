"""The LM against transformers' own, its masks, its cache, its loaders."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from espnet_llada.networks.backbone import Backbone, additive_mask
from espnet_llada.networks.cache import KVCache
from espnet_llada.networks.lora import LoraOptions, add_lora, merge_lora
from espnet_llada.types import UserError


def run(lm: Backbone, tokens: torch.Tensor, valid=None) -> torch.Tensor:
    valid = torch.ones_like(tokens, dtype=torch.bool) if valid is None else valid
    with torch.no_grad():
        return lm.logits(lm(lm.embed(tokens), valid))


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(1, 200, (2, 9), generator=torch.Generator().manual_seed(1))


def test_causal_equals_transformers(tiny_lm, tokens):
    ours = run(Backbone.from_pretrained(tiny_lm, "causal"), tokens)
    reference = LlamaForCausalLM.from_pretrained(tiny_lm).eval()
    with torch.no_grad():
        assert torch.allclose(ours, reference(tokens).logits, atol=1e-5)


def test_only_bidirectional_attention_sees_the_future(tiny_lm, tokens):
    changed = tokens.clone()
    changed[:, -1] = 7
    causal = Backbone.from_pretrained(tiny_lm, "causal")
    both = Backbone.from_pretrained(tiny_lm, "bidirectional")
    first = slice(0, -1)
    assert torch.equal(run(causal, tokens)[:, first], run(causal, changed)[:, first])
    assert not torch.allclose(run(both, tokens)[:, 0], run(both, changed)[:, 0])


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_padding_in_the_middle_or_at_the_end_cannot_leak(tiny_lm, tokens, attention):
    lm = Backbone.from_pretrained(tiny_lm, attention)
    alone = run(lm, tokens[:1])
    junk = torch.randint(1, 200, (1, 4))
    padded = torch.cat([tokens[:1, :5], junk, tokens[:1, 5:], junk], dim=1)
    valid = torch.ones_like(padded, dtype=torch.bool)
    valid[:, 5:9] = valid[:, -4:] = False
    keep = valid[0].nonzero().flatten()
    assert torch.allclose(run(lm, padded, valid)[:, keep], alone, atol=1e-5)


def test_the_cache_equals_recomputation(tiny_lm, tokens):
    lm = Backbone.from_pretrained(tiny_lm, "causal")
    valid, cache = torch.ones_like(tokens, dtype=torch.bool), KVCache()
    with torch.no_grad():
        lm(lm.embed(tokens[:, :4]), valid[:, :4], cache)
        steps = [
            lm(lm.embed(tokens[:, i : i + 1]), valid[:, : i + 1], cache)
            for i in range(4, tokens.shape[1])
        ]
        whole = lm(lm.embed(tokens), valid)[:, 4:]
    assert torch.allclose(torch.cat(steps, dim=1), whole, atol=1e-5)


def test_a_llada_directory_is_the_same_network_under_other_names(
    tiny_lm, tiny_llada, tokens
):
    stored = load_file(tiny_llada / "model-00001.safetensors")
    head = stored["model.transformer.ff_out.weight"]
    llada = Backbone.from_pretrained(tiny_llada, "bidirectional")
    llama = Backbone.from_pretrained(tiny_lm, "bidirectional")
    assert llada.mask_id == 5 and llada.mask_embedding is None
    valid = torch.ones_like(tokens, dtype=torch.bool)
    with torch.no_grad():
        hidden = llama(llama.embed(tokens), valid)
    assert torch.allclose(run(llada, tokens), hidden @ head.T, atol=1e-5)


def test_a_llama_gets_a_trained_mask_embedding(tiny_lm):
    lm = Backbone.from_pretrained(tiny_lm, "bidirectional")
    assert lm.mask_id == lm.vocab_size
    trained = [n for n, p in lm.named_parameters() if p.requires_grad]
    assert trained == ["mask_embedding"]
    embedded = lm.embed(torch.tensor([[3, lm.mask_id]]))
    assert torch.equal(embedded[0, 1], lm.mask_embedding)
    assert torch.equal(embedded[0, 0], lm.embedding.weight[3])


def test_lora_starts_as_nothing_and_merges_exactly(tiny_lm, tokens):
    lm = Backbone.from_pretrained(tiny_lm, "causal")
    plain = run(lm, tokens)
    add_lora(lm.body, LoraOptions(r=4, dropout=0.0))
    assert torch.allclose(run(lm, tokens), plain, atol=1e-6)
    for name, parameter in lm.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    unmerged = run(lm, tokens)
    assert not torch.allclose(unmerged, plain, atol=1e-3)
    merge_lora(lm.body)
    assert torch.allclose(run(lm, tokens), unmerged, atol=1e-5)
    assert not any("lora_" in name for name, _ in lm.named_parameters())


@pytest.mark.parametrize("mixed", [False, True])
def test_an_update_takes_bf16_under_autocast_and_fp32_without(tiny_lm, tokens, mixed):
    lm = Backbone.from_pretrained(tiny_lm, "causal", dtype=torch.bfloat16).train()
    add_lora(lm.body, LoraOptions(r=4))
    seen = []
    for name, module in lm.named_modules():
        if name.endswith("lora_dropout.default"):
            module.register_forward_pre_hook(lambda _, x: seen.append(x[0].dtype))
    valid = torch.ones_like(tokens, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16, mixed):
        hidden = lm(lm.embed(tokens), valid)
    assert set(seen) == {torch.bfloat16 if mixed else torch.float32}
    hidden.sum().backward()
    assert run(lm.eval(), tokens).isfinite().all()  # without autocast again


def broken(tiny_lm, tmp_path, change) -> None:
    settings = json.loads((tiny_lm / "config.json").read_text())
    tensors = load_file(tiny_lm / "model.safetensors")
    change(settings, tensors)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    if tensors:
        save_file(tensors, tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s, t: t.pop("model.norm.weight"), "norm.weight"),
        (lambda s, t: t.update({"model.extra": torch.ones(1)}), "extra"),
        (lambda s, t: t.update({"model.norm.weight": torch.ones(3)}), "norm.weight"),
        (lambda s, t: s.update(model_type="gpt2"), "gpt2"),
        (lambda s, t: t.clear(), "safetensors"),
    ],
)
def test_a_damaged_directory_is_named(tiny_lm, tmp_path, change, named):
    broken(tiny_lm, tmp_path, change)
    with pytest.raises(UserError, match=named) as e:
        Backbone.from_pretrained(tmp_path, "causal")
    assert str(tmp_path) in str(e.value)


@pytest.mark.parametrize("keys", [1, 16, 45, 155])
def test_rows_of_a_mask_are_aligned(keys):
    allowed = torch.rand(3, 1, 2, keys) < 0.5
    mask = additive_mask(allowed, torch.bfloat16)
    lowest = torch.finfo(torch.bfloat16).min
    assert torch.equal(mask, torch.where(allowed, 0.0, lowest).bfloat16())
    assert mask.stride(-1) == 1
    assert not any(step % 16 for step in mask.stride()[:-1]), "or torch copies it"
