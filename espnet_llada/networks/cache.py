"""The KV cache of a Llama."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class KVCache:
    """Keys and values of each layer so far, (B, heads, K, head_dim)."""

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
        """A copy to run new positions with; this cache does not keep them."""
        part = KVCache()
        part._layers = list(self._layers)
        return part

    def reorder_cache(self, rows: Tensor) -> None:
        """Select rows (N,) int64 of the batch."""
        self._layers = [(k[rows], v[rows]) for k, v in self._layers]
