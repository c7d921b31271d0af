"""Several canvases: one utterance decoded several times, the texts combined.

The canvases differ in their random draws, in their length, or, in deliberation, in
the first pass that they start from. Two are filled first; where their texts agree,
no more are. Elsewhere the text is taken whose expected number of word errors is the
lowest if each of the texts may be the true one (minimum Bayes risk).

Source: Goel and Byrne 2000 (minimum Bayes risk decoding); samples instead of a list,
as Jinnai 2025 (arXiv 2510.19471).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

from espnet_llada.alignment import align
from espnet_llada.core.model import LMDecoder
from espnet_llada.extensions.requirements import need
from espnet_llada.io.schema import Weight
from espnet_llada.types import FirstPasses, Hypothesis

LEAST = 2
"""Canvases of every utterance."""

_LONGEST, _FASTEST = 8192, 1000.0  # as SamplerOptions and canvas_size allow

Recognise = Callable[..., list[Hypothesis]]
"""Waveforms, ids and first passes (or None) to hypotheses."""


@dataclass(frozen=True)
class Options:
    """``canvases``."""

    number: Annotated[
        int, Meta(ge=LEAST, le=64, description="canvases of an utterance at most")
    ] = 5
    temperature: Annotated[
        Weight, Meta(description="of all canvases but the first")
    ] = 1.0
    growth: Annotated[
        Weight,
        Meta(description="share by which each canvas is longer"),
    ] = 0.0
    first_passes: Annotated[
        bool, Meta(description="each from another text of a list")
    ] = False
    scale: Annotated[
        Weight,
        Meta(description="of log-probabilities as votes; 0: alike"),
    ] = 0.0


class Canvases:
    """Adds canvases to those that have been filled, and chooses among the texts.

    Args:
        options: all options of the decoding (``inference.options.DecodingOptions``).
        make: a recogniser by such options.
    """

    def __init__(self, options: Any, make: Callable[[Any], Recognise]):
        self.options = options.extensions["canvases"]
        self.deliberates = options.deliberates
        self.recognisers = [make(one) for one in variants(options)]

    def __call__(
        self,
        found: Sequence[Hypothesis],
        waveforms: Sequence[np.ndarray],
        utt_ids: Sequence[str],
        first_passes: Sequence[FirstPasses] | None,
    ) -> list[Hypothesis]:
        """The chosen hypotheses; each has its ``canvases``, and the passes of all.

        Args:
            found: what the first canvas of each utterance came out as.
            waveforms, utt_ids: the batch.
            first_passes: n-best lists, or one text each; None where none are used.
        """
        own = [[h] for h in found]
        for number, recognise in enumerate(self.recognisers, 1):
            rows = self._undecided(own, number, first_passes)
            if not rows:
                break
            given = [[of[row] for row in rows] for of in (waveforms, utt_ids)]
            if self.deliberates:
                place = number if self.options.first_passes else 0
                given.append([first_passes[row][place].text for row in rows])
            for row, h in zip(rows, recognise(*given), strict=True):
                own[row].append(h)
        lists = first_passes if self.options.first_passes else [()] * len(own)
        pairs = zip(own, lists, strict=True)
        return [self._combined(filled, given) for filled, given in pairs]

    def _undecided(
        self,
        own: Sequence[Sequence[Hypothesis]],
        number: int,
        first_passes: Sequence[FirstPasses] | None,
    ) -> list[int]:
        """Rows that get canvas ``number``."""
        rows = []
        for row, filled in enumerate(own):
            agree = number >= LEAST and len({h.text for h in filled}) == 1
            # With first passes, a list may hold fewer texts.
            listed = not self.options.first_passes or len(first_passes[row]) > number
            if listed and not agree:
                rows.append(row)
        return rows

    def _combined(
        self, filled: Sequence[Hypothesis], given: FirstPasses | tuple
    ) -> Hypothesis:
        scores = [one.score for one in given[: len(filled)]]
        weights = posteriors(scores or [h.score for h in filled], self.options.scale)
        risks = expected_errors([h.text.split() for h in filled], weights)
        best = filled[min(range(len(filled)), key=risks.__getitem__)]
        passes = sum(h.passes for h in filled)
        each = zip(filled, risks, strict=True)
        canvases = tuple(replace(h, risk=risk) for h, risk in each)
        return replace(best, passes=passes, canvases=canvases)


def check(options: Any, decoder: LMDecoder) -> None:
    """Raise a UserError if the model has no canvas, or all would be the same."""
    own = options.extensions["canvases"]
    need(decoder.diffuses, "canvases", "this model's decoder is autoregressive")
    if own.first_passes:
        need(options.deliberates, "canvases: first_passes", "is for deliberation")
        return
    if own.growth:
        why = "deliberation's canvas is as long as the transcript; leave it out"
        need(not options.deliberates, "canvases: growth", why)
    differ = own.temperature or own.growth or options.strategy == "deliberation_random"
    need(bool(differ), "canvases", "temperature 0 and growth 0 give one text; set one")


def variants(options: Any) -> Iterator[Any]:
    """The options of each canvas but the first."""
    own = options.extensions["canvases"]
    others = {k: v for k, v in options.extensions.items() if k not in _OF_THE_WHOLE}
    for number in range(1, own.number):
        sampler = options.sampler
        longer = 1 + own.growth * number
        changed = {
            "seed": sampler.seed + number,
            "temperature": sampler.temperature if own.first_passes else own.temperature,
            "canvas_length": min(_LONGEST, math.ceil(sampler.canvas_length * longer)),
        }
        extensions = dict(others)
        if own.growth and (size := extensions.get("canvas_size")):
            rates = {name: min(_FASTEST, r * longer) for name, r in vars(size).items()}
            extensions["canvas_size"] = replace(size, **rates)
        search = replace(options.search, nbest=1)
        sampler = replace(sampler, **changed)
        yield replace(options, sampler=sampler, search=search, extensions=extensions)


_OF_THE_WHOLE = ("canvases", "nbest_rescoring")


def posteriors(scores: Sequence[float], scale: float) -> list[float]:
    """Weights that sum to 1, proportional to exp(scale * score)."""
    highest = max(scores)
    values = [math.exp(scale * (score - highest)) for score in scores]
    return [value / math.fsum(values) for value in values]


def expected_errors(
    texts: Sequence[Sequence[str]], weights: Sequence[float]
) -> list[float]:
    """Word errors to expect of each text, if text k is the true one by ``weights[k]``.

    Errors are those of the alignment that scores are counted by (sclite's).
    """
    pairs = list(zip(texts, weights, strict=True))
    return [math.fsum(w * errors(other, text) for other, w in pairs) for text in texts]


def errors(ref: Sequence[str], hyp: Sequence[str]) -> int:
    """Substitutions, insertions and deletions."""
    if ref == hyp:
        return 0
    return sum(one != other for one, other in align(ref, hyp))


def canvas_line(h: Hypothesis) -> str:
    """What each canvas of an utterance has said, as a line of JSON."""
    texts = [canvas.text for canvas in h.canvases]
    chosen = texts.index(h.text) if h.text in texts else None
    return json.dumps(
        [
            {
                "canvas": number,
                "text": canvas.text,
                "log_prob": round(canvas.score, 3),
                "tokens": list(canvas.tokens),
                "confidence": [round(value, 4) for value in canvas.confidence],
                "passes": canvas.passes,
                "risk": round(canvas.risk, 4),
                "chosen": number == chosen,
            }
            for number, canvas in enumerate(h.canvases)
        ],
        ensure_ascii=False,
    )
