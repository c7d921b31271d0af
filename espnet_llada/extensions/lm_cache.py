"""Keys and values that passes over a canvas need not compute anew.

*Cached prefix* (``decoder_conf: {cached_prefix: true}``): a model that was trained with
prompt and audio blind to the response runs them once, with the first pass; the logits
are the same. *Block cache* (``block_cache: {}`` in decoding): after the first pass of a
sub-block only its own positions are computed; prompt, audio and the rest of the canvas
keep the keys and values of that pass. An approximation: they no longer see what is
filled in.

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
    """``Passes`` that keep what need not be computed anew.

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
        """The head of these rows, and hidden states of the whole canvas."""
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
        """The prefix of some rows, with a cache wherever that can be."""
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
    """A prefix, and what the LM has made of it, where that is known.

    Attributes:
        prefix: of R rows, P positions.
        cache: of P positions.
        hidden: (R, P, d).
    """

    prefix: Prefix
    cache: KVCache | None = None
    hidden: Tensor | None = None

    def rows(self, chosen: list[int]) -> _Known:
        """Of some of the rows."""
        prefix = self.prefix.rows(chosen)
        if self.cache is None:
            return _Known(prefix)
        rows = torch.tensor(chosen, device=prefix.valid.device)
        columns = self.prefix.valid[rows].any(dim=0)
        cache = self.cache.chosen(rows, columns)
        return _Known(prefix, cache, self.hidden[rows][:, columns])


@dataclass(frozen=True)
class _Block:
    """What the passes of a sub-block behind its first one use of that.

    Attributes:
        numbers: R, rows of the batch.
        head: of R rows.
        prefix: of R rows, P positions.
        cache: of P + L positions.
        valid: (R, P + L) bool.
        window: (R, L) bool, the positions that are computed anew.
    """

    numbers: list[int]
    head: OutputHead
    prefix: Prefix
    cache: KVCache
    valid: Tensor
    window: Tensor

    def rows(self, numbers: Sequence[int]) -> _Block | None:
        """Of some of the rows; None where it has not got them all."""
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
        """Whether (R, L) positions are all computed anew."""
        return not bool((wanted & ~self.window).any())

    def hidden(self, lm: Backbone, tokens: Tensor) -> Tensor:
        """(R, L, d) of a canvas (R, L), zero where nothing is computed."""
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
