"""Word times and confidences: when each word is spoken, and how sure it is.

Times are those of a CTC forced alignment of the transcript, so a model without a CTC
has none. Its posteriors come late, by as much as the model has learnt, and what a
decoder found probable is not as often right: a model's ``calibration.yaml`` has what
was measured of both on dev speech, as the options below, for each task:

    decode: {start: -0.23, end: 0.1, bias: 0.3, lm: 0.2, ctc: 0.2, scorer: 0.3}
    deliberate: {start: -0.23, end: 0.1, bias: 1.0, lm: 0.1, ctc: 0.2, scorer: 0.5}

With another strategy than the model's own, confidences are not calibrated.
``local/calibrate.py`` of the recipe writes it.

Source: word confidence by logistic regression of the decoders' scores (Platt scaling).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor, nn

from espnet_llada.alignment import align
from espnet_llada.io.files import read_yaml
from espnet_llada.io.schema import checked
from espnet_llada.types import (
    CALIBRATION_FILE,
    SAMPLE_RATE,
    Hypothesis,
    UserError,
    Word,
)

Number = Annotated[float, Meta(ge=-1e6, le=1e6)]

SURE = 1e-4
"""Probabilities are cut to [SURE, 1 - SURE]."""


@dataclass(frozen=True)
class Options:
    """``word_times``: on or off, and the model's calibration.

    A confidence is 1 / (1 + exp(-x)), x = bias + lm * a + ctc * b + scorer * c with the
    logits a, b, c of the probabilities of the word's least probable token.
    """

    start: Annotated[Number, Meta(description="s from its first CTC vector")] = 0.0
    end: Annotated[Number, Meta(description="s from its last CTC vector's end")] = 0.0
    bias: Annotated[Number, Meta(description="of the confidence's logit")] = 0.0
    lm: Annotated[Number, Meta(description="weight of the LM's logit")] = 0.0
    ctc: Annotated[Number, Meta(description="weight of the CTC's")] = 0.0
    scorer: Annotated[Number, Meta(description="weight of the scorer's")] = 0.0

    @property
    def calibrated(self) -> bool:
        """Whether it is for confidences; else these are what the LM committed at."""
        return bool(self.bias or self.lm or self.ctc or self.scorer)

    def confidence(self, evidence: Sequence[float]) -> float:
        """Of a token or word, in [0, 1]; see ``Word.evidence``."""
        if not self.calibrated:
            return math.exp(evidence[0])
        weights = self.lm, self.ctc, self.scorer
        values = zip(weights, logits(evidence), strict=False)
        logit = self.bias + math.fsum(weight * value for weight, value in values)
        return 1 / (1 + math.exp(-max(min(logit, 700.0), -700.0)))


def logits(log_probs: Iterable[float]) -> list[float]:
    """ln(p / (1 - p)) of natural log-probabilities."""
    cut = [min(max(math.exp(value), SURE), 1 - SURE) for value in log_probs]
    return [math.log(p / (1 - p)) for p in cut]


def calibration(
    config: str | Path, task: str, times_alone: bool = False
) -> dict[str, Any]:
    """The section of a task in the ``calibration.yaml`` next to a model's config.

    Args:
        config: the model's config.yaml.
        task: ``decode`` or ``deliberate``.
        times_alone: leave out what calibrates confidences.

    Raises:
        UserError: an unknown section; the options themselves are checked later.
    """
    path = Path(config).parent / CALIBRATION_FILE
    content = read_yaml(path) if path.exists() else {}
    if unknown := set(content) - {"decode", "deliberate"}:
        raise UserError(
            f"{path}: unknown key '{min(map(str, unknown))}'; the sections are decode "
            "and deliberate"
        )
    found = checked(content.get(task) or {}, dict[str, Number], f"{path}: {task}")
    kept = ("start", "end") if times_alone else tuple(found)
    return {name: value for name, value in found.items() if name in kept}


class EncodeOnce:
    """An encoding stage that keeps its last result, for whoever asks again.

    Attributes:
        encode: the stage without that.
    """

    def __init__(self, encode: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]):
        self.encode, self._given, self._found = encode, None, None

    def __call__(self, speech: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See ``core.recognizer.Stages.encode``."""
        given = speech, lengths
        same = self._given is not None and all(map(torch.equal, given, self._given))
        if not same:
            self._found = self.encode(speech, lengths)
            self._given = given
        return self._found


class WordTimer:
    """Adds words to hypotheses.

    Args:
        model: ``WhisperLLM``, or ESPnet's model with our decoder.
        options: the calibration.
        encoded: waveforms to the adapter's vectors (B, A, width) and counts (B,).
    """

    def __init__(
        self,
        model: nn.Module,
        options: Options,
        encoded: Callable[[Sequence[np.ndarray]], tuple[Tensor, Tensor]],
    ):
        self.decoder, self.options, self.encoded = model.decoder, options, encoded
        adapter = getattr(model, "postencoder", None)
        self._step = None  # s from one vector to the next, if the adapter tells
        if hasattr(adapter, "window") and hasattr(adapter, "queries"):
            self._step = 0.02 * adapter.window / len(adapter.queries)

    @torch.no_grad()
    def __call__(
        self,
        waveforms: Sequence[np.ndarray],
        found: Sequence[Hypothesis],
        begins: Sequence[float] | None = None,
    ) -> list[Hypothesis]:
        """Words of each hypothesis, as its tokens spell them.

        Args:
            waveforms: of the segments, each short enough for the encoder.
            found: one for each.
            begins: s, where each segment begins in its recording; default 0.
        """
        if not found:
            return []
        from espnet_llada.extensions.forced_alignment import spoken_tokens

        audio, counts = self.encoded(waveforms)
        prefix = self.decoder.prefix(audio, counts)
        spoken = spoken_tokens(prefix, [h.token_ids for h in found])
        seconds = [len(waveform) / SAMPLE_RATE for waveform in waveforms]
        begins = begins or [0.0] * len(found)
        each = zip(found, spoken, seconds, counts.tolist(), begins, strict=True)
        return [self._timed(*row) for row in each]

    def _timed(
        self, h: Hypothesis, spoken: Any, seconds: float, vectors: int, begin: float
    ) -> Hypothesis:
        evidence = [(math.log(max(p, 1e-30)),) for p in h.confidence]
        if spoken is not None:
            heard = [
                (t.ctc,) if t.scorer is None else (t.ctc, t.scorer) for t in spoken
            ]
            evidence = [own + new for own, new in zip(evidence, heard, strict=True)]
        calibrated = self.options.calibrated and spoken is not None
        words = self._words(h, spoken, evidence)
        step = self._step or seconds / max(vectors, 1)
        spans = self._spans([places for _, places, _ in words], step, seconds)
        within = begin, begin + seconds
        made = []
        for (text, _, own), span in zip(words, spans, strict=True):
            start, end = (None, None) if span is None else (begin + t for t in span)
            least = tuple(map(min, zip(*own, strict=False)))
            sure = self._confidence(own, least, calibrated)
            made.append(Word(text, start, end, sure, within, least))
        tokens = h.confidence
        if calibrated:
            tokens = tuple(map(self.options.confidence, evidence))
        given = {"confidence": tokens, "calibrated": calibrated}
        return replace(h, words=tuple(made), evidence=tuple(evidence), **given)

    def _confidence(
        self, own: Sequence[Sequence[float]], least: Sequence[float], calibrated: bool
    ) -> float | None:
        if not own:
            return None
        if calibrated:
            return self.options.confidence(least)
        return math.exp(math.fsum(values[0] for values in own))  # all tokens are right

    def _words(self, h: Hypothesis, spoken: Any, evidence: Sequence[tuple]) -> list:
        """Of each word: text, (first, last) vector or None, its tokens' evidence."""
        texts = h.text.split()
        owners = self.decoder.tokenizer.word_numbers(h.token_ids)
        found = []
        for number, text in enumerate(texts):
            own = [i for i, owner in enumerate(owners) if owner == number]
            places = None
            if own and spoken is not None:
                places = spoken[own[0]].first, spoken[own[-1]].last
            found.append((text, places, [evidence[i] for i in own]))
        return found

    def _spans(
        self, places: Sequence[tuple[int, int] | None], step: float, seconds: float
    ) -> list[tuple[float, float] | None]:
        """Start and end (s); a word ends at the latest where the next one begins."""
        starts = [
            None
            if p is None
            else min(max(p[0] * step + self.options.start, 0), seconds)
            for p in places
        ]
        spans, behind = [], seconds
        for start, place in zip(reversed(starts), reversed(places), strict=True):
            if place is None:
                spans.append(None)
                continue
            start = min(start, behind)
            end = min((place[1] + 1) * step + self.options.end, behind)
            spans.append((start, max(start, end)))
            behind = start
        return spans[::-1]


def carried(
    words: Sequence[Word], texts: Sequence[str], shown: Sequence[Sequence[str]]
) -> tuple[Word, ...]:
    """The words of a text that is written otherwise than the LM writes it.

    Args:
        words: the LM's.
        texts: the words of the text.
        shown: each of them as the LM writes it, see ``FirstPass.shown``.
    """
    flat = [(word, number) for number, own in enumerate(shown) for word in own]
    pairs = align([word for word, _ in flat], [word.text for word in words])
    numbers, others = (iter(side) for side in ([n for _, n in flat], words))
    heard: dict[int, list[Word]] = {}
    for own, other in pairs:
        number = next(numbers) if own is not None else None
        word = next(others) if other is not None else None
        if number is not None and word is not None:
            heard.setdefault(number, []).append(word)
    made: list[Word] = []
    nearest = words[0].within if words else None
    for number, text in enumerate(texts):
        own = heard.get(number)
        made.append(_merged(text, own) if own else Word(text, within=nearest))
        nearest = made[-1].within
    return tuple(made)


def words_line(h: Hypothesis) -> str:
    """Text, confidence and evidence of each word as a line of JSON."""
    each = [
        (w.text, _rounded(w.confidence), [*map(_rounded, w.evidence)]) for w in h.words
    ]
    return json.dumps(each, ensure_ascii=False)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _merged(text: str, parts: Sequence[Word]) -> Word:
    """One word that the LM writes as several."""
    return Word(
        text,
        _of(min, (p.start for p in parts)),
        _of(max, (p.end for p in parts)),
        _of(min, (p.confidence for p in parts)),
        parts[0].within,
        tuple(map(min, zip(*(p.evidence for p in parts), strict=False))),
    )


def _of(choose: Callable, values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return choose(known) if known else None
