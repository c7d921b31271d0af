"""Memory that a decoding step of fixed shape works in; see ``fixed``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from espnet_llada.bench.static_cache import StaticKVCache
from espnet_llada.core.decoder import LMDecoder, last_valid
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.sampler import SamplerResult
from espnet_llada.networks.backbone import Backbone, additive_mask
from espnet_llada.networks.llama import Llama


def _hidden(body: Llama, run, embeds, mask, positions, caches) -> Tensor:
    """As ``Llama.forward``, each layer by ``run``: code for one fits them all."""
    turn = body.rotary_emb(positions, embeds.dtype)
    for layer, cache in zip(body.layers, caches, strict=True):
        embeds = run(layer, embeds, mask, turn, cache, body.kernel)
    return body.norm(embeds)


def _logits(lm: Backbone, hidden: Tensor) -> Tensor:
    """The class's own: a ``Meter`` around it would stop a graph's capture."""
    return Backbone.logits(lm, hidden)


def _mask(table: Tensor, *shape: int) -> Tensor:
    """(B, 1, Q, K) for (B, Q, K), open, in the dtype of ``table``."""
    rows, queries, keys = shape
    allowed = table.new_ones(rows, 1, queries, keys, dtype=torch.bool)
    return additive_mask(allowed, table.dtype)


def _closed(mask: Tensor) -> Tensor:
    return mask.fill_(torch.finfo(mask.dtype).min)


class Memory(ABC):
    """What a step works in.

    Attributes:
        run: runs the step; set by ``fixed``, which knows how.
    """

    run: Callable[[], None]

    @property
    def parts(self) -> list[Memory]:
        """What has a step of its own."""
        return [self]

    @abstractmethod
    def step(self) -> None:
        """What is run, time and again."""


@dataclass
class Continuation(Memory):
    """Greedy search of B rows in memory for K positions.

    Attributes:
        cache: keys and values.
        mask: (B, 1, 1, K), see ``Llama``.
        token, position: (B, 1) int64, the last token and the number of its position.
        tokens, log_probs: (B, K), what has been written.
        column: (1,) int64, where the next one goes.
    """

    decoder: LMDecoder
    layer: Callable[..., Tensor]
    rows: int
    room: int

    def __post_init__(self) -> None:
        table = self.decoder.lm.embedding.weight
        self.cache = StaticKVCache(
            self.decoder.lm.body.config, self.rows, self.room, table
        )
        self.mask = _mask(table, self.rows, 1, self.room)
        ones = torch.ones(self.rows, 1, dtype=torch.long, device=table.device)
        self.token, self.position = ones.clone(), ones.clone()
        self.tokens = ones.repeat(1, self.room)
        self.log_probs = torch.zeros_like(self.tokens, dtype=torch.float32)
        self.column = torch.zeros_like(self.cache.places)

    def begin(self, prefix: Prefix) -> None:
        """Take a prefix with a cache up, and choose the first token."""
        self.cache.fill(prefix.cache)
        asked = prefix.valid.shape[1]
        _closed(self.mask)[..., :asked].masked_fill_(prefix.valid[:, None, None], 0.0)
        self.position.copy_(prefix.start[:, None])
        self.column.zero_()
        self._choose(last_valid(prefix.hidden, prefix.valid))

    def step(self) -> None:
        """Feed the last token and choose the next one."""
        lm, places = self.decoder.lm, self.cache.places
        self.mask.index_fill_(3, places, 0.0)
        embeds, caches = lm.embed(self.token), self.cache.layers
        hidden = _hidden(lm.body, self.layer, embeds, self.mask, self.position, caches)
        self._choose(hidden[:, 0])
        self.position.add_(1)
        places.add_(1)

    def _choose(self, hidden: Tensor) -> None:
        """The most probable token of (B, d)."""
        log_probs = _logits(self.decoder.lm, hidden).float().log_softmax(dim=-1)
        best, token = log_probs.max(dim=-1, keepdim=True)
        self.token.copy_(token)
        self.tokens.index_copy_(1, self.column, token)
        self.log_probs.index_copy_(1, self.column, best)
        self.column.add_(1)

    def ended(self, count: int) -> bool:
        """Whether each row has an EOS among its first ``count`` tokens."""
        written = self.tokens[:, :count] == self.decoder.special.eos
        return bool(written.any(dim=1).all())

    def result(self, max_tokens: int) -> SamplerResult:
        """Up to the longest row's end, or to ``max_tokens``."""
        eos = self.decoder.special.eos
        tokens, log_probs = self.tokens[:, :max_tokens], self.log_probs[:, :max_tokens]
        ends = (tokens == eos).long()
        behind = ends.cumsum(dim=1) - ends > 0
        passes = (~behind).sum(dim=1)
        longest = int(passes.max())
        return SamplerResult(
            tokens.masked_fill(behind, eos)[:, :longest],
            log_probs.masked_fill(behind, 0.0)[:, :longest],
            passes,
        )


@dataclass(eq=False)
class Pass(Memory):
    """One pass over B rows of P prefix and L canvas positions.

    Attributes:
        embeds: (B, P, d), the prefix.
        mask: (B, 1, 1, P + L), see ``Llama``.
        positions: (B, P + L) int64.
        tokens: (B, L) int64, the canvas.
        caches: of each layer; none where all is computed anew.
        logits: (B, L, V), what comes of it.
    """

    decoder: LMDecoder
    layer: Callable[..., Tensor]
    rows: int
    asked: int
    length: int

    def __post_init__(self) -> None:
        lm = self.decoder.lm
        table, width = lm.embedding.weight, self.asked + self.length
        self.embeds = table.new_zeros(self.rows, self.asked, lm.width)
        self.mask = _mask(table, self.rows, 1, width)
        numbers = torch.arange(width, device=table.device)
        self.positions = numbers.repeat(self.rows, 1)
        self.tokens = torch.zeros_like(self.positions[:, self.asked :])
        self.caches: list[Any] = [None] * len(lm.body.layers)
        self.logits: Tensor | None = None

    def begin(self, prefix: Prefix, lengths: Tensor, tokens: Tensor) -> None:
        """Take prefix and canvas up."""
        places = torch.arange(self.length, device=tokens.device)
        valid = torch.cat([prefix.valid, places < lengths[:, None]], dim=1)
        self._open(valid)
        self.embeds.copy_(prefix.embeds)
        self.positions[:, : self.asked] = prefix.positions
        self.positions[:, self.asked :] = prefix.start[:, None] + places
        self.tokens.copy_(tokens)

    def following(self, tokens: Tensor) -> Pass | LaterPass:
        """The pass over the same prefix and another canvas."""
        self.tokens.copy_(tokens)
        return self

    def _open(self, valid: Tensor) -> None:
        """Have all see what is there: (B, P + L) bool."""
        _closed(self.mask).masked_fill_(valid[:, None, None], 0.0)

    def step(self) -> None:
        """The pass."""
        lm = self.decoder.lm
        embeds = lm.join(self.embeds, lm.embed(self.tokens))
        caches = self.caches
        hidden = _hidden(lm.body, self.layer, embeds, self.mask, self.positions, caches)
        self.logits = _logits(lm, hidden[:, self.asked :])


class BlindPass(Pass):
    """The first pass over prefix and canvas where the prefix sees only itself.

    Attributes:
        mask: (B, 1, P + L, P + L).
        later: the passes behind it, over the canvas alone.
    """

    later: LaterPass

    def __post_init__(self) -> None:
        super().__post_init__()
        table, width = self.decoder.lm.embedding.weight, self.asked + self.length
        cache = StaticKVCache(self.decoder.lm.body.config, self.rows, width, table)
        places = torch.arange(width, device=table.device)
        self.caches = cache.at(places)
        self.mask = _mask(table, self.rows, width, width)
        self.later = LaterPass(self, cache.at(places[self.asked :]))

    @property
    def parts(self) -> list[Memory]:
        return [self, self.later]

    def following(self, tokens: Tensor) -> LaterPass:
        super().following(tokens)
        return self.later

    def _open(self, valid: Tensor) -> None:
        there = valid[:, None, None].repeat(1, 1, valid.shape[1], 1)
        there[:, :, : self.asked, self.asked :] = False
        _closed(self.mask).masked_fill_(there, 0.0)


@dataclass
class LaterPass(Memory):
    """A pass over a canvas whose prefix is in the cache already.

    Attributes:
        first: the pass that has filled the cache; its memory is used again.
        caches: of each layer, where the canvas goes.
        logits: (B, L, V), what comes of it.
    """

    first: BlindPass
    caches: list[Any]
    logits: Tensor | None = field(init=False, default=None)

    @property
    def rows(self) -> int:
        """B."""
        return self.first.rows

    def step(self) -> None:
        """The pass."""
        first, lm = self.first, self.first.decoder.lm
        mask = first.mask[:, :, -1:]
        places = first.positions[:, first.asked :]
        embeds = lm.embed(first.tokens)
        hidden = _hidden(lm.body, first.layer, embeds, mask, places, self.caches)
        self.logits = _logits(lm, hidden)
