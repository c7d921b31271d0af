"""CTC fusion: CTC log-probabilities are added to the LM's in the first passes.

From an empty canvas the LM's first pass commits tokens that know nothing of their
neighbours. The CTC does not either, but hears each token where it is spoken: the
draft is aligned with the audio, and position n of the canvas gets the CTC's
distribution over tokens at the vector where token n of the draft is most probable.
Positions behind the draft are the LM's alone.

Needs the draft of ``extensions.ctc_prefix``; imports ``ctc_alignment`` and
``forced_alignment``.

Source: the joint decoding of Naveriani et al. 2026 (arXiv 2604.14001), which adds a
CTC's distribution over frames to a diffusion LM's over labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor

from espnet_llada.core.canvas import Canvas
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import DecodingHook
from espnet_llada.extensions.ctc_alignment import CTCAlignment
from espnet_llada.extensions.forced_alignment import viterbi
from espnet_llada.extensions.requirements import need, need_ctc, need_diffusion
from espnet_llada.io.schema import Weight

FLOOR = -10.0
"""The least log-probability (nats) that the CTC gives a token, or the end."""


@dataclass(frozen=True)
class Options:
    """``ctc_fusion``: the first passes from a blank canvas."""

    weight: Annotated[Weight, Meta(description="of the CTC; the LM's is 1")] = 0.3
    passes: Annotated[
        int, Meta(ge=1, le=8192, description="how many passes the CTC takes part in")
    ] = 1


class Hook(DecodingHook):
    """Adds the CTC's log-probabilities."""

    _ctc: Tensor  # (K, V), of the known positions, row by row
    _known: Tensor  # (B, L) bool
    _left: int

    def check(self, others: Mapping[str, Any]) -> None:
        """See ``DecodingHook``."""
        need_ctc(self.decoder, "ctc_fusion")
        need_diffusion(self.decoder, "ctc_fusion")
        why = "deliberation starts from a first pass, not from a blank canvas"
        need(not self.sampler.deliberates, "ctc_fusion", why)
        why = "its canvas is the CTC's draft already; leave one out"
        need("mask_ctc" not in others, "ctc_fusion: mask_ctc", why)

    def open(self, prefix: Prefix, canvas: Canvas) -> tuple[Prefix, Canvas]:
        """See ``DecodingHook``."""
        texts = prefix.draft.ids
        found = [heard(prefix.alignment, row, text) for row, text in enumerate(texts)]
        self._known = torch.zeros_like(canvas.valid)
        for row, own in enumerate(found):
            found[row] = own[: canvas.lengths[row]]
            self._known[row, : len(found[row])] = True
        self._ctc, self._left = torch.cat(found), self.options.passes
        return prefix, canvas

    def process(
        self, tokens: Tensor, masked: Tensor, log_probs: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """See ``DecodingHook``."""
        if self._left <= 0:
            return log_probs, None
        self._left -= 1
        own = self._ctc[masked[self._known]]  # both are in the order of positions
        fused = log_probs.clone()
        fused[self._known[masked]] += self.options.weight * own
        return fused.log_softmax(dim=-1), None


def heard(alignment: CTCAlignment, row: int, text: list[int]) -> Tensor:
    """(T, V) float32: what the CTC hears where each token of a text is spoken.

    Natural log-probabilities given that it is no blank, at least ``FLOOR``; (0, V) for
    a text that does not fit into the audio.
    """
    columns = alignment.columns(row, text)
    spans = viterbi(columns.float().cpu().numpy(), text) or []
    places = [
        first + int(columns[first : last + 1, number].argmax())
        for number, (first, last) in enumerate(spans, 1)
    ]
    return alignment.at(row, places)[:, 1:].log_softmax(dim=-1).clamp(min=FLOOR)
