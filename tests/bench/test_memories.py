"""The static KV cache holds what the growing one holds."""

from __future__ import annotations

import torch

from espnet_llada.bench.memories import StaticKVCache
from espnet_llada.networks.cache import KVCache
from espnet_llada.networks.llama import Llama, LlamaConfig

CONFIG = LlamaConfig(50, 24, 40, 3, 6, 2, head_dim=4)


@torch.no_grad()
def test_it_is_written_where_it_is_told_to():
    torch.manual_seed(0)
    llama = Llama(CONFIG).eval()
    torch.nn.init.normal_(llama.embed_tokens.weight)
    growing, static = KVCache(), StaticKVCache(CONFIG, 2, 10, torch.zeros(()))
    where = [
        (layer.keys.data_ptr(), layer.values.data_ptr()) for layer in static.layers
    ]
    first = llama.embed_tokens(torch.randint(50, (2, 5)))
    causal = torch.full((5, 5), -1e30).triu(1)[None, None]
    llama(first, causal, torch.arange(5).expand(2, -1), growing)
    static.fill(growing)
    for place in range(5, 9):
        assert static.places.tolist() == [place]
        token = llama.embed_tokens(torch.randint(50, (2, 1)))
        position = torch.full((2, 1), place)
        there = torch.zeros(1, 1, 1, 10)
        there[..., place + 1 :] = -1e30
        expected = llama(token, there[..., : place + 1], position, growing)
        got = llama(token, there, position, static)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
        static.places.add_(1)
    for (keys, values), layer in zip(growing.pairs, static.layers, strict=True):
        torch.testing.assert_close(layer.keys[:, :, :9], keys)
        torch.testing.assert_close(layer.values[:, :, :9], values)
        assert not layer.keys[:, :, 9].any()
    assert where == [(x.keys.data_ptr(), x.values.data_ptr()) for x in static.layers]


@torch.no_grad()
def test_one_query_attends_as_the_last_of_many_does():
    # Heads that share keys are folded into queries then.
    torch.manual_seed(1)
    llama = Llama(CONFIG).eval()
    for parameter in llama.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    embeds = torch.randn(2, 6, 24)
    causal = torch.full((6, 6), -1e30).triu(1)[None, None]
    positions = torch.arange(6).expand(2, -1)
    for kernel in ("sdpa", "eager"):
        llama.kernel = kernel
        expected = llama(embeds, causal, positions)
        cache = KVCache()
        parts = [
            llama(x, causal[:, :, i : i + 1, : i + 1], positions[:, i : i + 1], cache)
            for i, x in enumerate(embeds.split(1, dim=1))
        ]
        torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-4, rtol=1e-4)
