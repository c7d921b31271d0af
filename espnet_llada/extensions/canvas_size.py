"""Canvas length by utterance: from its duration, or from its posterior prefix.

A canvas near the transcript's length is cheaper, and matches training with a small
``max_eos_padding``.

Source: length prediction of non-autoregressive recognition, e.g. by the CTC (Higuchi
et al. 2021, arXiv 2010.13270).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from espnet_llada.core.canvas import Canvas, blank_canvas
from espnet_llada.core.prefix import Prefix
from espnet_llada.core.recognizer import DecodingHook
from espnet_llada.extensions.requirements import need
from espnet_llada.types import SAMPLE_RATE

Rate = Annotated[float, Meta(ge=0.0, le=1000.0)]


@dataclass(frozen=True)
class Options:
    """``canvas_size``: positions of a blank canvas, plus 2; at most canvas_length."""

    tokens_per_second: Annotated[
        Rate, Meta(description="above 0: positions per second of audio")
    ] = 0.0
    positions_per_vector: Annotated[
        Rate,
        Meta(description="above 0: positions per vector of the prefix"),
    ] = 0.0


class Hook(DecodingHook):
    """Makes the canvas."""

    def check(self, others: Mapping[str, Any]) -> None:
        """See ``DecodingHook``."""
        why = "deliberation's canvas is as long as the transcript; leave it out"
        need(not self.sampler.deliberates, "canvas_size", why)
        has_posteriors = hasattr(self.decoder.audio_prefix, "posteriors")
        why = "this model has no posterior prefix; train with 'posterior_prefix'"
        fits = has_posteriors or not self.options.positions_per_vector
        need(fits, "canvas_size: positions_per_vector", why)

    def open(self, prefix: Prefix, canvas: Canvas) -> tuple[Prefix, Canvas]:
        """See ``DecodingHook``."""
        samples, known = self.samples, []
        if rate := self.options.tokens_per_second:
            known.append([n / SAMPLE_RATE * rate for n in samples])
        if rate := self.options.positions_per_vector:
            known.append([n * rate for n in prefix.words])
        sizes = [self.sampler.canvas_length] * len(samples)
        for own in known:
            sizes = [
                min(size, math.ceil(n) + 2) for size, n in zip(sizes, own, strict=True)
            ]
        return prefix, blank_canvas(sizes, self.decoder.special, canvas.tokens.device)
