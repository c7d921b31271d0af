"""Keys and values of positions that a Llama has seen, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from espnet_llada.networks.lm.llama import LlamaConfig


class KVCache:
    """Keys and values of the positions so far, (B, heads, K, head_dim) a layer."""

    def __init__(self) -> None:
        self._layers: list[tuple[Tensor, Tensor]] = []

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Append new positions; returns all of the layer's."""
        if layer == len(self._layers):
            self._layers.append((keys, values))
        else:
            old = self._layers[layer]
            pairs = zip(old, (keys, values), strict=True)
            self._layers[layer] = tuple(torch.cat(pair, dim=2) for pair in pairs)
        return self._layers[layer]

    @property
    def pairs(self) -> Sequence[tuple[Tensor, Tensor]]:
        """Keys and values of each layer."""
        return self._layers

    def chosen(self, rows: Tensor, columns: Tensor) -> KVCache:
        """A cache of some rows (N,) int64 and some positions (K,) bool."""
        part = KVCache()
        part._layers = [
            (k[rows][:, :, columns], v[rows][:, :, columns]) for k, v in self._layers
        ]
        return part

    def beginning(self, length: int) -> KVCache:
        """A cache of the first ``length`` positions."""
        part = KVCache()
        part._layers = [(k[:, :, :length], v[:, :, :length]) for k, v in self._layers]
        return part

    def fixed(self) -> KVCache:
        """One to which new positions are shown, but which they do not stay in."""
        part = KVCache()
        part._layers = list(self._layers)
        return part

    def reorder_cache(self, rows: Tensor) -> None:
        """Make the batch these rows of it, (N,) int64."""
        self._layers = [(k[rows], v[rows]) for k, v in self._layers]


class StaticKVCache:
    """The same in memory that neither grows nor moves, for compiled or captured code.

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
