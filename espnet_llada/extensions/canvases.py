"""Several canvases: one utterance decoded several times, the texts combined.

The canvases differ in their random draws, in their length, or, in deliberation, in
the first pass that they start from. Two are filled first; where their texts agree,
no more are. Elsewhere the text is taken whose expected number of word errors is the
lowest if each of the texts may be the true one (minimum Bayes risk), or their words are
voted on, so that the result may be none of them (word ROVER, ``extensions.rover``).

Lengths are held to the bounds of ``extensions.canvas_size`` and of the core's options.

Source: Goel and Byrne 2000 (minimum Bayes risk decoding); samples instead of a list,
as Jinnai 2025 (arXiv 2510.19471); Fiscus 1997 (ROVER).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

import numpy as np
from msgspec import Meta

from espnet_llada.alignment import align
from espnet_llada.core.model import LMDecoder
from espnet_llada.core.options import Positions
from espnet_llada.extensions.canvas_size import Rate
from espnet_llada.extensions.requirements import need
from espnet_llada.extensions.rover import Vote, combined
from espnet_llada.io.schema import Share, Weight
from espnet_llada.networks.tokenizer import LMTokenizer
from espnet_llada.types import FirstPasses, Hypothesis

LEAST = 2
"""Canvases of every utterance."""

# The bounds of what is made longer, as its annotations state them.
_LONGEST, _FASTEST = (get_args(kind)[1].le for kind in (Positions, Rate))

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
    combination: Annotated[
        Literal["mbr", "rover"],
        Meta(description="by least risk, or by votes on words"),
    ] = "mbr"
    alpha: Annotated[
        Share, Meta(description="rover: weight of the votes; the rest: confidence")
    ] = 1.0
    confidence: Annotated[
        Literal["mean", "max"], Meta(description="rover: of a word's canvases")
    ] = "mean"
    null_confidence: Annotated[
        Share, Meta(description="rover: confidence that there is no word")
    ] = 0.0


class Canvases:
    """Adds canvases to those that have been filled, and combines the texts.

    Args:
        options: all options of the decoding (``inference.options.DecodingOptions``).
        make: a recogniser by such options.
        tokenizer: of the LM.
    """

    def __init__(
        self,
        options: Any,
        make: Callable[[Any], Recognise],
        tokenizer: LMTokenizer,
    ):
        self.options = own = options.extensions["canvases"]
        self.vote = Vote(own.alpha, own.null_confidence, own.confidence == "max")
        self.tokenizer = tokenizer
        self.deliberates = options.deliberates
        self.recognisers = [make(one) for one in variants(options)]

    def __call__(
        self,
        found: Sequence[Hypothesis],
        waveforms: Sequence[np.ndarray],
        utt_ids: Sequence[str],
        first_passes: Sequence[FirstPasses] | None,
    ) -> list[Hypothesis]:
        """The hypotheses combined; each has its ``canvases``, and the passes of all.

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
        texts = [h.text.split() for h in filled]

        def with_risk(h: Hypothesis) -> Hypothesis:
            return replace(h, risk=expected_errors(h.text.split(), texts, weights))

        canvases = tuple(map(with_risk, filled))
        if self.options.combination == "rover":
            best = with_risk(combined(canvases, weights, self.vote, self.tokenizer))
        else:
            best = min(canvases, key=lambda h: h.risk)
        passes = sum(h.passes for h in filled)
        return replace(best, passes=passes, canvases=canvases)


def check(options: Any, decoder: LMDecoder) -> None:
    """Raise a UserError if the model has no canvas, or all would be the same."""
    own = options.extensions["canvases"]
    need(decoder.diffuses, "canvases", "this model's decoder is autoregressive")
    for name in ("alpha", "confidence", "null_confidence"):
        given = getattr(own, name) != getattr(Options, name)
        why = "is for combination: rover; leave it out"
        need(own.combination == "rover" or not given, f"canvases: {name}", why)
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
    text: Sequence[str], texts: Sequence[Sequence[str]], weights: Sequence[float]
) -> float:
    """Word errors to expect of a text if any may be true, text k by ``weights[k]``.

    Errors are those of the alignment that scores are counted by (sclite's).
    """
    pairs = zip(texts, weights, strict=True)
    return math.fsum(weight * errors(other, text) for other, weight in pairs)


def errors(ref: Sequence[str], hyp: Sequence[str]) -> int:
    """Substitutions, insertions and deletions."""
    if ref == hyp:
        return 0
    return sum(one != other for one, other in align(ref, hyp))


def canvas_line(h: Hypothesis) -> str:
    """What each canvas of an utterance has said, as a line of JSON.

    A result that none of them has said follows, as ``canvas: null``.
    """
    rows = dict(enumerate(h.canvases))
    texts = [canvas.text for canvas in h.canvases]
    chosen = texts.index(h.text) if h.text in texts else None
    if chosen is None:
        rows[None] = h
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
            for number, canvas in rows.items()
        ],
        ensure_ascii=False,
    )
