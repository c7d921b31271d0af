"""KV caches for diffusion: passes reuse keys and values of earlier ones.

*Cached prefix* (``decoder_conf: {cached_prefix: true}``): in a model trained without
attention from prompt and audio to the response, these are computed once, in the first
pass; the logits are the same. *Block cache* (``block_cache: {}`` in decoding): after
the first pass of a sub-block only its own positions are computed; prompt, audio and the
rest of the canvas keep the keys and values of that pass. This is an approximation:
they do not see the tokens committed since.

Source: Fast-dLLM (Wu et al. 2025, arXiv 2505.22618), its dual cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from espnet_llada.core.masking import LogitsFn
from espnet_llada.core.model import LMDecoder, Passes, response_places
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import DecodingHook
from espnet_llada.networks.backbone import Backbone, OutputHead
from espnet_llada.networks.cache import KVCache


@dataclass(frozen=True)
class Options:
    """``block_cache: {}``; it has no options."""


class Hook(DecodingHook):
    """Runs the passes with a block cache."""

    def passes(self, prefix: Prefix, lengths: Tensor) -> LogitsFn:
        """See ``DecodingHook``."""
        return CachedPasses(self.decoder, prefix, lengths, block_cache=True)


class CachedPasses(Passes):
    """``Passes`` with a KV cache.

    Args:
        decoder, prefix, lengths: see ``Passes``.
        block_cache: see above.
    """

    def __init__(
        self,
        decoder: LMDecoder,
        prefix: Prefix,
        lengths: Tensor,
        block_cache: bool = False,
    ):
        super().__init__(decoder, prefix, lengths)
        self._block_cache = block_cache
        self._known: _Known | None = None  # of the rows that are held
        self._block: _Block | None = None

    def run(
        self, rows: list[int], tokens: Tensor, wanted: Tensor
    ) -> tuple[OutputHead, Tensor, Tensor]:
        """See ``Passes``."""
        lengths = self.lengths[rows]
        if not self._block_cache:  # a block has room for the longest row
            width = int(lengths.max())
            tokens, wanted = tokens[:, :width], wanted[:, :width]
        if self._block is not None:
            self._block = self._block.rows(rows)
        if self._block is not None and self._block.covers(wanted):
            hidden = self._block.hidden(self.decoder.lm, tokens)
            return self._block.head, hidden, wanted
        head, hidden = self._whole(rows, tokens, lengths, wanted)
        return head, hidden, wanted

    def _whole(
        self, rows: list[int], tokens: Tensor, lengths: Tensor, wanted: Tensor
    ) -> tuple[OutputHead, Tensor]:
        """Output head, and hidden states of the whole canvas."""
        known, decoder = self._known_rows(rows), self.decoder
        prefix, lm, blind = known.prefix, decoder.lm, not decoder.prefix_attends
        valid, behind = response_places(prefix, tokens, lengths)
        if known.cache is None:
            cache = KVCache() if blind or self._block_cache else None
            first, hidden = decoder.hidden(prefix, tokens, lengths, cache)
            head = prefix.head.given(first)
            if blind:  # then these are all rows that are held
                own = cache.beginning(prefix.valid.shape[1])
                self._known = _Known(prefix, own, first)
        else:
            cache = known.cache.fixed()
            hidden = lm(lm.embed(tokens), valid, cache, behind)
            head = prefix.head.given(known.hidden)
        if self._block_cache:
            self._block = _Block(rows, head, prefix, cache, valid, wanted)
        return head, hidden

    def _known_rows(self, rows: list[int]) -> _Known:
        """The prefix of some rows, with its cache if possible."""
        if not set(rows) <= set(self.held):
            self.shown(rows)
            self._known = _Known(self.prefix)
        if rows == self.held:
            return self._known
        if not self.decoder.prefix_attends and self._known.cache is None:
            cache = KVCache()
            prefix = self._known.prefix
            given = prefix.embeds, prefix.valid, cache, prefix.positions
            self._known = _Known(prefix, cache, self.decoder.lm(*given))
        return self._known.rows([self.held.index(row) for row in rows])


@dataclass(frozen=True)
class _Known:
    """A prefix, with its KV cache and hidden states once they are computed.

    Attributes:
        prefix: of R rows, P positions.
        cache: of P positions.
        hidden: (R, P, d).
    """

    prefix: Prefix
    cache: KVCache | None = None
    hidden: Tensor | None = None

    def rows(self, chosen: list[int]) -> _Known:
        """Some of the rows."""
        prefix = self.prefix.rows(chosen)
        if self.cache is None:
            return _Known(prefix)
        rows = torch.tensor(chosen, device=prefix.valid.device)
        columns = self.prefix.valid[rows].any(dim=0)
        cache = self.cache.chosen(rows, columns)
        return _Known(prefix, cache, self.hidden[rows][:, columns])


@dataclass(frozen=True)
class _Block:
    """State of a sub-block's first pass that its later passes use.

    Attributes:
        numbers: R, rows of the batch.
        head: of R rows.
        prefix: of R rows, P positions.
        cache: of P + L positions.
        valid: (R, P + L) bool.
        window: (R, L) bool, the positions that are recomputed.
    """

    numbers: list[int]
    head: OutputHead
    prefix: Prefix
    cache: KVCache
    valid: Tensor
    window: Tensor

    def rows(self, numbers: Sequence[int]) -> _Block | None:
        """Some of the rows; None if it lacks one of them."""
        if list(numbers) == self.numbers:
            return self
        if not set(numbers) <= set(self.numbers):
            return None
        places = [self.numbers.index(number) for number in numbers]
        chosen = torch.tensor(places, device=self.valid.device)
        shown = self.prefix.valid[chosen].any(dim=0)
        columns = torch.cat([shown, torch.ones_like(self.window[0])])
        return _Block(
            list(numbers),
            self.head.rows(chosen),
            self.prefix.rows(places),
            self.cache.chosen(chosen, columns),
            self.valid[chosen][:, columns],
            self.window[chosen],
        )

    def covers(self, wanted: Tensor) -> bool:
        """Whether all ``wanted`` positions (R, L) are recomputed."""
        return not bool((wanted & ~self.window).any())

    def hidden(self, lm: Backbone, tokens: Tensor) -> Tensor:
        """(R, L, d) of a canvas (R, L), zero outside the window."""
        width = int(self.window.sum(dim=1).max())
        order = (~self.window).byte().argsort(dim=1, stable=True)[:, :width]
        own = self.window.gather(1, order)
        stale = self.valid.clone()
        stale[:, -self.window.shape[1] :] &= ~self.window
        places = self.prefix.start[:, None] + order
        embeds = lm.embed(tokens.gather(1, order))
        valid = torch.cat([stale, own], dim=1)
        found = lm(embeds, valid, self.cache.fixed(), places) * own[..., None]
        whole = found.new_zeros(*tokens.shape, found.shape[-1])
        return whole.scatter(1, order[..., None].expand_as(found), found)
