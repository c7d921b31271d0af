"""Our Llama against transformers', in the variants that tiny_lm has not got."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig as TheirConfig
from transformers import LlamaModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from espnet_llada.networks.cache import KVCache
from espnet_llada.networks.llama import Llama, LlamaConfig, RMSNorm, Rotary
from espnet_llada.types import UserError

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
VARIANTS = {
    "plain": {},
    "grouped": {"num_key_value_heads": 2},
    "llama3": {"rope_theta": 500.0, "rope_scaling": LLAMA3},
    "transformers 5": {"rope_parameters": {**LLAMA3, "rope_theta": 500.0}},
    "wide heads": {"head_dim": 16, "num_key_value_heads": 1},
}


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_transformers_llama(variant, kernel):
    settings = {**SIZES, **VARIANTS[variant]}
    torch.manual_seed(0)
    theirs = LlamaModel(TheirConfig(**settings)).eval()
    config = LlamaConfig.from_settings(theirs.config.to_dict(), "config.json")
    ours = Llama(config)
    ours.load_state_dict(theirs.state_dict())
    ours.kernel = kernel
    tokens = torch.randint(50, (2, 40))
    places = torch.arange(40).expand(2, -1)
    mask = torch.full((40, 40), -1e9).triu(1)[None, None]
    found = ours(ours.embed_tokens(tokens), mask, places)
    expected = theirs(tokens).last_hidden_state
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    # The last position once more, with a cache of those before it.
    cache, embeds = KVCache(), ours.embed_tokens(tokens)
    ours(embeds[:, :39], mask[..., :39, :39], places[:, :39], cache)
    last = ours(embeds[:, 39:], mask[..., 39:, :], places[:, 39:], cache)
    torch.testing.assert_close(last, expected[:, 39:], atol=2e-5, rtol=1e-4)


def test_what_it_is_not_is_refused():
    for name, value in {
        "attention_bias": True,
        "mlp_bias": True,
        "hidden_act": "gelu",
        "rope_scaling": {"type": "yarn", "factor": 2.0},
    }.items():
        with pytest.raises(UserError, match=f"config.json: {name} .*not supported"):
            LlamaConfig.from_settings({**SIZES, name: value}, "config.json")
    with pytest.raises(UserError, match=r"lm/config.json: no hidden_size"):
        LlamaConfig.from_settings({**SIZES, "hidden_size": None}, "lm/config.json")


def test_frequencies_are_real_on_the_meta_device():
    config = LlamaConfig.from_settings(SIZES, "config.json")
    with torch.device("meta"):
        assert Llama(config).embed_tokens.weight.is_meta
    assert Rotary(config).inv_freq.device.type == "cpu"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_rounds_where_transformers_does(dtype):
    config = LlamaConfig.from_settings({**SIZES, "hidden_size": 768}, "config.json")
    ours, theirs = RMSNorm(config), LlamaRMSNorm(768, config.rms_norm_eps)
    weight, x = 0.5 + torch.rand(768), 3 * torch.randn(50, 768)
    for norm in (ours, theirs):
        norm.weight.data = weight.to(dtype)
    assert torch.equal(ours(x.to(dtype)), theirs(x.to(dtype)))
