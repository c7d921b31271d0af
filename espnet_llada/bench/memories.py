"""Memory that decoding steps of fixed shape work in.

``steps`` are what is run, time and again; ``runs``, which ``fixed`` makes, run them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from espnet_llada.core.model import LMDecoder, last_valid, response_places
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.sampler import SamplerResult
from espnet_llada.networks.backbone import additive_mask
from espnet_llada.networks.cache import KVCache
from espnet_llada.networks.frozen import scores
from espnet_llada.networks.llama import LlamaConfig

Step = Callable[[], Tensor | None]


class FixedLM:
    """The LM over tensors that stay where they are.

    Args:
        decoder: with the LM.
        layer: runs a layer of it.
    """

    def __init__(self, decoder: LMDecoder, layer: Callable[..., Tensor]):
        self.backbone, self.special, self.layer = decoder.lm, decoder.special, layer
        self.table, self.attends = decoder.lm.embedding.weight, decoder.prefix_attends

    def hidden(
        self, embeds: Tensor, mask: Tensor, positions: Tensor, caches: Sequence[Any]
    ) -> Tensor:
        """As ``Llama.forward``, each layer by ``layer``: code for one fits them all."""
        body = self.backbone.body
        turn = body.rotary_emb(positions, embeds.dtype)
        for layer, cache in zip(body.layers, caches, strict=True):
            embeds = self.layer(layer, embeds, mask, turn, cache, body.kernel)
        return body.norm(embeds)

    def logits(self, hidden: Tensor) -> Tensor:
        """As ``Backbone.logits``, whose hooks would stop a graph's capture."""
        return scores(hidden, self.backbone.head.to(hidden.dtype))

    def mask(self, *shape: int) -> Tensor:
        """(B, 1, Q, K) for (B, Q, K), open."""
        rows, queries, keys = shape
        allowed = self.table.new_ones(rows, 1, queries, keys, dtype=torch.bool)
        return additive_mask(allowed, self.table.dtype)

    def cache(self, rows: int, length: int) -> StaticKVCache:
        """For so many positions."""
        return StaticKVCache(self.backbone.body.config, rows, length, self.table)


def _closed(mask: Tensor) -> Tensor:
    return mask.fill_(torch.finfo(mask.dtype).min)


class Continuation:
    """Greedy search of B rows in memory for K positions.

    Args:
        lm: see there.
        rows: B.
        room: K.

    Attributes:
        cache: keys and values.
        mask: (B, 1, 1, K), see ``Llama``.
        token, position: (B, 1) int64, the last token and the number of its position.
        tokens, log_probs: (B, K), what has been written.
        column: (1,) int64, where the next one goes.
    """

    def __init__(self, lm: FixedLM, rows: int, room: int):
        self.lm, self.rows, self.steps = lm, rows, [self.step]
        self.cache, self.mask = lm.cache(rows, room), lm.mask(rows, 1, room)
        ones = torch.ones(rows, 1, dtype=torch.long, device=self.mask.device)
        self.token, self.position = ones.clone(), ones.clone()
        self.tokens = ones.repeat(1, room)
        self.log_probs = torch.zeros_like(self.tokens, dtype=torch.float32)
        self.column = torch.zeros_like(self.cache.places)

    def begin(self, prefix: Prefix) -> None:
        """Read a prefix, and choose the first token."""
        cache, valid = KVCache(), prefix.valid
        hidden = self.lm.backbone(prefix.embeds, valid, cache, prefix.positions)
        self.cache.fill(cache)
        shown = _closed(self.mask)[..., : valid.shape[1]]
        shown.masked_fill_(valid[:, None, None], 0.0)
        self.position.copy_(prefix.start[:, None])
        self.column.zero_()
        self._choose(last_valid(hidden, valid))

    def step(self) -> None:
        """Feed the last token and choose the next one."""
        places = self.cache.places
        self.mask.index_fill_(3, places, 0.0)
        embeds = self.lm.backbone.embed(self.token)
        given = embeds, self.mask, self.position, self.cache.layers
        self._choose(self.lm.hidden(*given)[:, 0])
        self.position.add_(1)
        places.add_(1)

    def _choose(self, hidden: Tensor) -> None:
        """The most probable token of (B, d)."""
        log_probs = self.lm.logits(hidden).float().log_softmax(dim=-1)
        best, token = log_probs.max(dim=-1, keepdim=True)
        self.token.copy_(token)
        self.tokens.index_copy_(1, self.column, token)
        self.log_probs.index_copy_(1, self.column, best)
        self.column.add_(1)

    def ended(self, count: int) -> bool:
        """Whether each row has an EOS among its first ``count`` tokens."""
        written = self.tokens[:, :count] == self.lm.special.eos
        return bool(written.any(dim=1).all())

    def result(self, max_tokens: int) -> SamplerResult:
        """Up to the longest row's end, or to ``max_tokens``."""
        eos = self.lm.special.eos
        tokens, log_probs = self.tokens[:, :max_tokens], self.log_probs[:, :max_tokens]
        ends = (tokens == eos).long()
        behind = ends.cumsum(dim=1) - ends > 0
        passes = (~behind).sum(dim=1)
        longest = int(passes.max())
        tokens = tokens.masked_fill(behind, eos)[:, :longest]
        log_probs = log_probs.masked_fill(behind, 0.0)[:, :longest]
        return SamplerResult(tokens, log_probs, passes)


class Canvas:
    """Passes over B rows of P prefix and L canvas positions.

    A prefix that does not see the response is run in the first pass alone; the later
    ones run the canvas.

    Args:
        lm: see there.
        rows, asked, length: B, P, L.

    Attributes:
        embeds: (B, P, d), the prefix.
        mask: (B, 1, 1, P + L), see ``Llama``; where the prefix does not see all, with
            P + L queries.
        positions: (B, P + L) int64.
        tokens: (B, L) int64, the canvas.
    """

    def __init__(self, lm: FixedLM, rows: int, asked: int, length: int):
        self.lm, self.rows, self.asked = lm, rows, asked
        width, self.steps = asked + length, [self.step]
        self.embeds = lm.table.new_zeros(rows, asked, lm.backbone.width)
        self.mask = lm.mask(rows, 1 if lm.attends else width, width)
        numbers = torch.arange(width, device=self.mask.device)
        self.positions = numbers.repeat(rows, 1)
        self.tokens = torch.zeros_like(self.positions[:, asked:])
        self._caches: Sequence[Any] = [None] * len(lm.backbone.body.layers)
        if not lm.attends:
            cache = lm.cache(rows, width)
            self._caches, self._later = cache.at(numbers), cache.at(numbers[asked:])
            self.steps.append(self.later_step)

    def begin(self, prefix: Prefix, lengths: Tensor) -> None:
        """Take a prefix up."""
        valid, behind = response_places(prefix, self.tokens, lengths)
        seen = valid[:, None, None]
        if not self.lm.attends:
            seen = seen.repeat(1, 1, valid.shape[1], 1)
            seen[:, :, : self.asked, self.asked :] = False
        _closed(self.mask).masked_fill_(seen, 0.0)
        self.embeds.copy_(prefix.embeds)
        self.positions.copy_(torch.cat([prefix.positions, behind], dim=1))

    def step(self) -> Tensor:
        """Logits (B, L, V) by a pass over everything."""
        backbone = self.lm.backbone
        embeds = backbone.join(self.embeds, backbone.embed(self.tokens))
        given = embeds, self.mask, self.positions, self._caches
        return self.lm.logits(self.lm.hidden(*given)[:, self.asked :])

    def later_step(self) -> Tensor:
        """The same by a pass over the canvas, behind the prefix of the first one."""
        embeds = self.lm.backbone.embed(self.tokens)
        positions = self.positions[:, self.asked :]
        given = embeds, self.mask[:, :, -1:], positions, self._later
        return self.lm.logits(self.lm.hidden(*given))


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
