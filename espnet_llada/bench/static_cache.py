"""Keys and values of a Llama in memory of a fixed size."""

from __future__ import annotations

import torch
from torch import Tensor

from espnet_llada.networks.cache import KVCache
from espnet_llada.networks.llama import LlamaConfig


class StaticKVCache:
    """A ``KVCache`` that neither grows nor moves, for compiled or captured code.

    Args:
        config: sizes.
        rows: B.
        length: K, positions that there is room for.
        like: a tensor of the same dtype and device.

    Attributes:
        places: (Q,) int64, where the next positions are written. Whoever feeds them
            sets it, and masks what nobody has written yet.
        layers: the memory of each layer, a cache of its own.
    """

    def __init__(self, config: LlamaConfig, rows: int, length: int, like: Tensor):
        shape = rows, config.num_key_value_heads, length, config.head_dim
        self.places = torch.zeros(1, dtype=torch.long, device=like.device)
        self.layers = [
            _StaticLayer(like.new_zeros(shape), like.new_zeros(shape), self.places)
            for _ in range(config.num_hidden_layers)
        ]

    def at(self, places: Tensor) -> list[_StaticLayer]:
        """The memory of each layer, for positions (Q,) int64 that are always these."""
        return [_StaticLayer(own.keys, own.values, places) for own in self.layers]

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Write new positions; returns all K of the layer's."""
        return self.layers[layer].update(keys, values, layer)

    def fill(self, cache: KVCache) -> None:
        """Begin with what a growing cache has; new positions go behind it."""
        for own, pair in zip(self.layers, cache.pairs, strict=True):
            for memory, given in zip((own.keys, own.values), pair, strict=True):
                memory[:, :, : given.shape[2]] = given
            self.places.fill_(pair[0].shape[2])


class _StaticLayer:
    def __init__(self, keys: Tensor, values: Tensor, places: Tensor):
        self.keys, self.values, self.places = keys, values, places

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """``layer`` is left alone, or torch.compile would make code for each number."""
        self.keys.index_copy_(2, self.places, keys)
        self.values.index_copy_(2, self.places, values)
        return self.keys, self.values
