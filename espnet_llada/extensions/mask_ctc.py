"""Mask-CTC: the LM refills the least confident tokens of the CTC draft.

Imports ``extensions.ctc_prefix``, whose batches have a draft, and ``confidence``.

Source: Mask-CTC (Higuchi et al., Interspeech 2020, arXiv 2005.08700), with an LLM for
the conditional masked LM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from espnet_llada.core.canvas import Canvas, transcript_canvas
from espnet_llada.core.masking import LogitsFn, Plan
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import DecodingHook
from espnet_llada.core.sampler import MakePlan
from espnet_llada.extensions.confidence import least_sure
from espnet_llada.extensions.requirements import need, need_ctc, need_diffusion
from espnet_llada.io.schema import Share
from espnet_llada.networks.rows import RowRandom


@dataclass(frozen=True)
class Options:
    """``mask_ctc``: decode from the CTC's draft."""

    mask_ratio: Annotated[
        Share,
        Meta(description="share of the draft that is masked"),
    ] = 0.5
    mask_threshold: Annotated[
        Share,
        Meta(description="above 0: mask less probable tokens"),
    ] = 0.0


class Hook(DecodingHook):
    """Starts from the CTC draft."""

    def check(self, others: Mapping[str, Any]) -> None:
        """See ``DecodingHook``."""
        need_ctc(self.decoder, "mask_ctc")
        need_diffusion(self.decoder, "mask_ctc")
        strategy = self.sampler.strategy
        why = f"strategy {strategy} does not start from a draft; leave one out"
        need(strategy == "diffusion", "mask_ctc", why)

    def open(self, prefix: Prefix, canvas: Canvas) -> tuple[Prefix, Canvas]:
        """See ``DecodingHook``."""
        draft, tail = prefix.draft, self.sampler.tail
        given = draft.ids, self.decoder.special, tail, canvas.tokens.device
        return prefix, transcript_canvas(*given, draft.log_probs)

    def plan(
        self, make: MakePlan, logits_fn: LogitsFn, canvas: Canvas, random: RowRandom
    ) -> Plan:
        """See ``DecodingHook``."""
        masks = self.options.mask_ratio, self.options.mask_threshold
        return least_sure(canvas, self.sampler, self.decoder.special, *masks)
