"""Commit rules: which positions a pass of the LM commits, and what it drafts.

*Reach*: a pass also commits each position that is surer than all masked ones near it:
what is far apart in speech hardly depends on each other. *Entropy budget*: a pass
commits the positions that it is surest of, as long as the entropies of all but the
largest add up to no more than a budget, which bounds what the tokens may depend on each
other. A *position bias* prefers positions further left. *Last pass*: what is masked by
then is committed at once. *Drafts*: the LM is shown a probable token before it is
committed; the next pass scores it by a shadow mask, which sees all tokens but that one,
and what turns out to be another token, or an unsure one, is decided again. *Blocks* of
a fixed length are filled from left to right, however long the canvas.

Source: EB-Sampler (Ben-Hamu et al. 2025, arXiv 2505.24857); position-biased and for
speech in MDM-ASR (Yen et al. 2026, arXiv 2602.18952); drafts and shadow masks as in
WINO (Hong et al. 2025, arXiv 2507.18578), where a draft is committed, and may be masked
again; blocks as LLaDA's generate.py, of 4 for speech in Yeo et al. 2026 (arXiv
2605.29613).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor

from espnet_llada.core.canvas import Canvas, places_of
from espnet_llada.core.masking import Block, LogitsFn, Plan
from espnet_llada.core.model import Passes, response_places
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import DecodingHook
from espnet_llada.core.sampler import MakePlan
from espnet_llada.extensions.requirements import need, need_diffusion
from espnet_llada.io.schema import Share, Weight
from espnet_llada.networks.backbone import OutputHead, additive_mask
from espnet_llada.networks.rows import RowRandom


@dataclass(frozen=True)
class Options:
    """``commit``: which positions a pass commits, besides ``threshold``."""

    entropy_budget: Annotated[
        Weight, Meta(description="above 0: nats of entropy a pass may commit")
    ] = 0.0
    position_bias: Annotated[
        Weight, Meta(description="with that, nats that each position costs")
    ] = 0.0
    reach: Annotated[
        int,
        Meta(
            ge=0,
            le=8192,
            description="above 0: commit positions surer than all masked ones so near",
        ),
    ] = 0
    last_pass: Annotated[
        int, Meta(ge=0, le=8192, description="above 0: this pass commits all the rest")
    ] = 0
    draft_threshold: Annotated[
        Share, Meta(description="above 0: show the LM drafts that probable")
    ] = 0.0
    block_length: Annotated[
        int, Meta(ge=0, le=8192, description="above 0: positions of each sub-block")
    ] = 0


class Hook(DecodingHook):
    """Chooses what a pass commits, and what the next one is shown."""

    _done: Tensor | None = None  # (B,), passes of each row
    drafts: Tensor | None = None

    def check(self, others: Mapping[str, Any]) -> None:
        """See ``DecodingHook``."""
        need_diffusion(self.decoder, "commit")
        ordered = not self.options.position_bias or self.options.entropy_budget
        need(ordered, "commit: position_bias", "needs entropy_budget above 0")
        alone = not self.options.draft_threshold or "block_cache" not in others
        why = "scores drafts on the whole canvas; leave block_cache out"
        need(alone, "commit: draft_threshold", why)
        strategy = self.sampler.strategy
        whole = not self.options.block_length or strategy == "diffusion"
        why = f"is for strategy diffusion; {strategy} has blocks of its own"
        need(whole, "commit: block_length", why)

    def plan(
        self, make: MakePlan, logits_fn: LogitsFn, canvas: Canvas, random: RowRandom
    ) -> Plan:
        """See ``DecodingHook``."""
        if not (size := self.options.block_length):
            return make(logits_fn, canvas, random)
        # By the longest canvas there may be, so that no row depends on its batch.
        passes = self.sampler.steps // math.ceil(self.sampler.canvas_length / size)
        number = places_of(canvas.tokens) // size
        blocks = [canvas.valid & (number == i) for i in range(int(number.max()) + 1)]
        none = torch.zeros_like(canvas.lengths)
        return Plan([Block(block, max(1, passes)) for block in blocks], none)

    def process(
        self, tokens: Tensor, masked: Tensor, log_probs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """See ``DecodingHook``."""
        own, settled = self.options, torch.zeros_like(masked)
        alive = masked.any(dim=1)
        self._done = alive.long() if self._done is None else self._done + alive
        if own.entropy_budget:
            given = own.entropy_budget, own.position_bias
            settled = within_budget(masked, log_probs, *given)
        if own.reach:
            settled = settled | surest_around(masked, log_probs, own.reach)
        if own.last_pass:
            settled = settled | (masked & (self._done >= own.last_pass)[:, None])
        if own.draft_threshold:
            best, token = log_probs.max(dim=-1)
            probable = best >= math.log(own.draft_threshold)
            token = token.masked_fill(~probable, self.decoder.special.mask)
            self.drafts = tokens.masked_scatter(masked, token)
        return log_probs, settled

    def passes(self, prefix: Prefix, lengths: Tensor) -> LogitsFn | None:
        """See ``DecodingHook``."""
        if not self.options.draft_threshold:
            return None
        return ShadowPasses(self, prefix, lengths)


def within_budget(
    masked: Tensor, log_probs: Tensor, budget: float, bias: float = 0.0
) -> Tensor:
    """The largest set of sure positions whose tokens hardly depend on each other.

    The positions of a row are taken in the order of log p(best token) - bias *
    position, as long as the sum of their entropies without the largest is at most
    ``budget``: always one position at least.

    Args:
        masked: (B, L) bool.
        log_probs: (N, V), of the masked positions, row by row.
        budget: nats.
        bias: nats for each position.

    Returns:
        (B, L) bool, the positions of that set.
    """
    score = _placed(masked, log_probs.amax(dim=-1)) - bias * places_of(masked)
    score = score.masked_fill(~masked, -torch.inf)
    entropy = _placed(masked, torch.special.entr(log_probs.exp()).sum(dim=-1))
    order = score.argsort(dim=1, descending=True, stable=True)
    entropy = entropy.gather(1, order)
    apart = entropy.cumsum(dim=1) - entropy.cummax(dim=1).values
    return torch.zeros_like(masked).scatter(1, order, apart <= budget) & masked


def surest_around(masked: Tensor, log_probs: Tensor, reach: int) -> Tensor:
    """The positions that are surer than all masked ones within ``reach`` positions.

    Args:
        masked: (B, L) bool.
        log_probs: (N, V), of the masked positions, row by row.
        reach: positions to either side.

    Returns:
        (B, L) bool, the local maxima of p(best token); of equals all.
    """
    score = _placed(masked, log_probs.amax(dim=-1)).masked_fill(~masked, -torch.inf)
    most = F.max_pool1d(score[:, None], 2 * reach + 1, stride=1, padding=reach)[:, 0]
    return masked & (score == most)


def _placed(masked: Tensor, values: Tensor) -> Tensor:
    """(B, L): values (N,) at the masked positions, else 0."""
    empty = torch.zeros(masked.shape, dtype=values.dtype, device=masked.device)
    return empty.masked_scatter(masked, values)


class ShadowPasses(Passes):
    """``Passes`` over a canvas with drafts, each scored by a shadow mask.

    Behind the canvas follows a mask token for each draft, at its position: it attends
    to prompt, audio and canvas, but not to its own draft; nothing else attends to it.
    """

    def __init__(self, hook: Hook, prefix: Prefix, lengths: Tensor):
        super().__init__(hook.decoder, prefix, lengths)
        self.hook = hook

    def run(
        self, rows: list[int], tokens: Tensor, wanted: Tensor
    ) -> tuple[OutputHead, Tensor, Tensor]:
        """See ``Passes``."""
        if self.hook.drafts is None:
            return super().run(rows, tokens, wanted)
        lengths = self.lengths[rows]
        width, mask = int(lengths.max()), self.decoder.special.mask
        tokens, wanted = tokens[:, :width], wanted[:, :width]
        shown = torch.where(wanted, self.hook.drafts[rows][:, :width], tokens)
        prefix, drafted = self.shown(rows), wanted & (shown != mask)
        first, hidden = self._hidden(prefix, shown, lengths, drafted)
        return prefix.head.given(first), hidden, wanted

    def _hidden(
        self, prefix: Prefix, tokens: Tensor, lengths: Tensor, drafted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Hidden states (R, P, d) of the prefix and (R, L, d) of the canvas.

        Those of ``drafted`` (R, L) positions are their shadow masks'.
        """
        lm, length = self.decoder.lm, prefix.valid.shape[1]
        valid, behind = response_places(prefix, tokens, lengths)
        order = (~drafted).byte().argsort(dim=1, stable=True)
        order = order[:, : int(drafted.sum(dim=1).max())]
        shadow = drafted.gather(1, order)
        masks = torch.full_like(order, self.decoder.special.mask)
        embeds = lm.join(prefix.embeds, lm.embed(torch.cat([tokens, masks], dim=1)))
        own = behind.gather(1, order)
        positions = torch.cat([prefix.positions, behind, own], dim=1)
        seen = torch.cat([valid, shadow], dim=1)
        allowed = self._allowed(seen, length, length + order, valid.shape[1])
        with lm.own_precision():
            hidden = lm.body(embeds, additive_mask(allowed, embeds.dtype), positions)
        canvas, masks = hidden[:, length : valid.shape[1]], hidden[:, valid.shape[1] :]
        index = order[..., None].expand_as(masks)
        masks = torch.where(shadow[..., None], masks, canvas.gather(1, index))
        return hidden[:, :length], canvas.scatter(1, index, masks)

    def _allowed(self, valid: Tensor, blind: int, drafts: Tensor, end: int) -> Tensor:
        """(R, 1, K, K) bool: which position attends to which.

        Args:
            valid: (R, K) bool.
            blind: positions of the prefix.
            drafts: (R, S) int64, the position of the draft of each shadow mask.
            end: of the canvas, where the S shadow masks begin.
        """
        places = places_of(valid)
        asking = places[:, None]
        allowed = valid[:, None] & ((places < end) | (places == asking))
        if not self.decoder.prefix_attends:
            allowed = allowed & ((places < blind) | (asking >= blind))
        own = torch.zeros_like(allowed)
        own[:, end:] = places == drafts[..., None]
        return (allowed & ~own)[:, None]
