"""Other confidence measures for low-confidence deliberation than the paper's.

The paper masks the ``mask_ratio`` least probable tokens, measured by the LM in one pass
that masks all of them. Here the tokens below a probability may be masked instead, so
that a transcript without doubtful tokens costs nothing more; the LM may measure in
several passes, each of which masks a part; or a model's ``whisper_scorer`` measures,
without an LM pass.

Source: the threshold is Mask-CTC's (Higuchi et al. 2020, arXiv 2005.08700).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor

from espnet_llada.core.canvas import Canvas, transcript_canvas
from espnet_llada.core.masking import (
    Block,
    LogitsFn,
    Plan,
    count_to_mask,
    lowest,
    measure,
    transcript_and_tail,
    with_tail,
)
from espnet_llada.core.options import SamplerOptions
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import DecodingHook
from espnet_llada.core.sampler import MakePlan
from espnet_llada.extensions.requirements import need, need_scorer
from espnet_llada.io.schema import Share
from espnet_llada.networks.rows import RowRandom
from espnet_llada.types import SpecialTokens


@dataclass(frozen=True)
class Options:
    """``confidence``, for ``deliberation_low_confidence``."""

    passes: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="LM passes that measure a text; 0: scorer",
        ),
    ] = 1
    mask_threshold: Annotated[
        Share,
        Meta(description="above 0: mask less probable tokens"),
    ] = 0.0


class Hook(DecodingHook):
    """Measures a transcript."""

    def check(self, others: Mapping[str, Any]) -> None:
        """See ``DecodingHook``."""
        low = self.sampler.strategy == "deliberation_low_confidence"
        why = f"is for deliberation_low_confidence, not for {self.sampler.strategy}"
        need(low, "confidence", why)
        if not self.options.passes:
            need_scorer(self.decoder, "confidence: passes 0")
        why = f"leaves nothing of steps {self.sampler.steps} to fill the canvas"
        fits = self.options.passes < self.sampler.steps
        need(fits, f"confidence: passes {self.options.passes}", why)

    def open(self, prefix: Prefix, canvas: Canvas) -> tuple[Prefix, Canvas]:
        """See ``DecodingHook``."""
        if self.options.passes:
            return prefix, canvas
        draft, tail = prefix.draft, self.sampler.tail
        given = draft.ids, self.decoder.special, tail, canvas.tokens.device
        return prefix, transcript_canvas(*given, draft.log_probs)

    def plan(
        self, make: MakePlan, logits_fn: LogitsFn, canvas: Canvas, random: RowRandom
    ) -> Plan:
        """See ``DecodingHook``."""
        passes, threshold = self.options.passes, self.options.mask_threshold
        masks = self.sampler.mask_ratio, threshold
        if not passes:
            return least_sure(canvas, self.sampler, self.decoder.special, *masks)
        tail = self.sampler.tail
        own, tail = transcript_and_tail(canvas, tail, self.decoder.special)
        counts = count_to_mask(own.sum(dim=1), self.sampler.mask_ratio)
        asked = own.any(dim=1) if threshold else counts > 0
        if not asked.any():
            return Plan([], torch.zeros_like(canvas.lengths))
        measured = measure(logits_fn, canvas, self.decoder.special, passes)
        chosen = _chosen(measured, own, counts, threshold)
        block = Block(with_tail(chosen, tail), self.sampler.steps - passes)
        return Plan([block], asked * passes, measured)


def least_sure(
    canvas: Canvas,
    sampler: SamplerOptions,
    special: SpecialTokens,
    ratio: float,
    threshold: float,
) -> Plan:
    """One block: the least confident tokens by ``canvas.confidence``, and the tail.

    Args:
        canvas: of a text, with its tokens' confidence.
        sampler: ``steps`` and ``tail``.
        special: mask and EOS ids.
        ratio: share of a row's tokens that are masked.
        threshold: above 0, mask all positions with a lower probability instead.
    """
    own, tail = transcript_and_tail(canvas, sampler.tail, special)
    counts = count_to_mask(own.sum(dim=1), ratio)
    among = canvas.valid & ~tail if threshold else own
    chosen = _chosen(canvas.confidence, among, counts, threshold)
    free = torch.zeros_like(canvas.lengths)
    return Plan([Block(with_tail(chosen, tail), sampler.steps)], free)


def _chosen(
    log_probs: Tensor, among: Tensor, counts: Tensor, threshold: float
) -> Tensor:
    """(B, L) bool: the ``counts`` lowest, or those below the threshold."""
    if not threshold:
        return lowest(log_probs, among, counts)
    return among & (log_probs < math.log(threshold))
