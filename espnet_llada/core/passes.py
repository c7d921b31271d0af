"""The LM over prefix and response, pass after pass; what stays the same runs once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from espnet_llada.core.head import OutputHead
from espnet_llada.core.prefix import Prefix
from espnet_llada.extensions.posterior_prefix.listening import Listener, Listening
from espnet_llada.networks.lm.backbone import Backbone
from espnet_llada.networks.lm.cache import KVCache


class Runner(Listener):
    """Hidden states and logits of a canvas behind its prefix; arguments: ``Parts``."""

    def sequence_hidden(
        self,
        prefix: Prefix,
        tokens: Tensor,
        lengths: Tensor,
        cache: KVCache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Hidden states of prefix and response, one LLM pass.

        Args:
            prefix: of B rows, P positions.
            tokens: (B, L) int64.
            lengths: (B,) int64, response positions of each row.
            cache: an empty one, to be filled.

        Returns:
            (B, P, d) and (B, L, d).
        """
        embeds = self.lm.join(prefix.embeds, self.lm.embed(tokens))
        valid, behind = _behind(prefix, tokens, lengths)
        positions = torch.cat([prefix.positions, behind], dim=1)
        length = prefix.valid.shape[1]
        blind = length if self.prefix_blind else 0
        hidden = self.lm(embeds, valid, cache, positions, blind)
        return hidden[:, :length], hidden[:, length:]

    def head(self, prefix: Prefix, hidden: Tensor) -> OutputHead:
        """What makes tokens of hidden states.

        Args:
            prefix: of B rows, P positions.
            hidden: (B, P, d), its own hidden states.
        """
        if self.pointer is None or prefix.heard is None:
            return OutputHead(self.lm)
        return self.pointer.head(self.lm, prefix, hidden)

    def canvas_logits(self, prefix: Prefix, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Logits (B, L, V) of all positions of a canvas; see ``sequence_hidden``."""
        first, hidden = self.sequence_hidden(prefix, tokens, lengths)
        return self.all_logits(self.head(prefix, first), hidden)

    def all_logits(self, head: OutputHead, hidden: Tensor) -> Tensor:
        """(B, L, V) of hidden states (B, L, d)."""
        everywhere = torch.ones_like(hidden[..., 0], dtype=torch.bool)
        return head.logits(hidden, everywhere).unflatten(0, hidden.shape[:2])

    def logits_fn(
        self, heard: Listening, lengths: Tensor, block_cache: bool = False
    ) -> Passes:
        """What the sampler calls, one LLM pass at a time; see ``Passes``."""
        return Passes(self, heard, lengths, block_cache)


class Passes:
    """A ``sampler.LogitsFn`` that does no more than it is asked for.

    Rows of which nothing is wanted are left out, the head runs on the wanted positions
    only, and a prefix that is blind to the response runs once, with the first pass: the
    same logits as ``Runner.canvas_logits``, for less.

    Args:
        runner: the LM and what stands around it.
        heard: of B rows.
        lengths: (B,) int64, canvas positions of each row.
        block_cache: compute after the first pass of a sub-block its own positions
            alone; prompt, audio and the rest of the canvas keep the keys and values of
            that pass. An approximation: they no longer see what is filled in. Source:
            Fast-dLLM (Wu et al. 2025, arXiv 2505.22618), its dual cache.
    """

    def __init__(
        self, runner: Runner, heard: Listening, lengths: Tensor, block_cache: bool
    ):
        self._runner, self._heard, self._lengths = runner, heard, lengths
        self._block_cache = block_cache
        self._held: list[int] = []  # rows whose prefix is there
        self._prefix: Prefix | None = None
        self._block: _Block | None = None

    def __call__(self, tokens: Tensor, wanted: Tensor) -> Tensor:
        """One pass: see ``sampler.LogitsFn``."""
        asked = wanted.any(dim=1).tolist()
        rows = [row for row, any_of_it in enumerate(asked) if any_of_it]
        lm = self._runner.lm
        if not rows:
            return lm.logits(lm.embedding.weight[:0])
        sizes = self._lengths
        if len(rows) < len(tokens):
            sizes, tokens, wanted = sizes[rows], tokens[rows], wanted[rows]
            if not self._block_cache:  # it has room for the longest row
                width = int(sizes.max())
                tokens, wanted = tokens[:, :width], wanted[:, :width]
        if self._block is not None:
            self._block = self._block.rows(rows)
        if self._block is not None and self._block.covers(wanted):
            prefix, hidden = self._block.prefix, self._block.hidden(lm, tokens)
        else:
            prefix, hidden = self._whole(rows, tokens, sizes, wanted)
        return self._runner.head(prefix, prefix.hidden).logits(hidden, wanted)

    def _whole(
        self, rows: list[int], tokens: Tensor, sizes: Tensor, wanted: Tensor
    ) -> tuple[Prefix, Tensor]:
        """The prefix with its hidden states, and those of the whole canvas."""
        prefix, blind = self._shown(rows), self._runner.prefix_blind
        if prefix.cache is None:
            cache = KVCache() if blind or self._block_cache else None
            run = self._runner.sequence_hidden
            first, hidden = run(prefix, tokens, sizes, cache)
            own = cache.beginning(prefix.valid.shape[1]) if blind else None
            prefix = replace(prefix, cache=own, hidden=first)
            if blind:
                self._prefix = prefix
        else:
            valid, behind = _behind(prefix, tokens, sizes)
            lm, cache = self._runner.lm, prefix.cache.fixed()
            hidden = lm(lm.embed(tokens), valid, cache, behind)
        if self._block_cache:
            valid = _behind(prefix, tokens, sizes)[0]
            self._block = _Block(rows, prefix, cache, valid, wanted)
        return prefix, hidden

    def _shown(self, rows: list[int]) -> Prefix:
        """The prefix of some rows, with a cache wherever that can be."""
        if not set(rows) <= set(self._held):
            self._held = sorted({*self._held, *rows})
            self._prefix = self._heard.rows(self._held)
        if rows == self._held:
            return self._prefix
        if self._runner.prefix_blind and self._prefix.cache is None:
            self._prefix = self._prefix.remembered(self._runner.lm)
        chosen = [self._held.index(row) for row in rows]
        return self._prefix.rows(torch.tensor(chosen, device=self._lengths.device))


@dataclass(frozen=True)
class _Block:
    """What the passes of a sub-block behind its first one use of that.

    Attributes:
        numbers: R, rows of the batch.
        prefix: of R rows, P positions, with its hidden states.
        cache: of P + L positions.
        valid: (R, P + L) bool.
        window: (R, L) bool, the positions that are computed anew.
    """

    numbers: list[int]
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
            self.prefix.rows(chosen),
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


def _behind(prefix: Prefix, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Which positions of prefix and response are there, and the response's numbers."""
    places = torch.arange(tokens.shape[1], device=tokens.device)
    valid = torch.cat([prefix.valid, places < lengths[:, None]], dim=1)
    return valid, prefix.start[:, None] + places
