"""Intervals of error rates and tests of differences, by bootstrap over speakers.

After Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance
evaluation" (ICASSP 2004). A replicate draws as many units as there are, with
replacement, and computes the rate from their summed errors and words; two systems are
compared on the same draws. The units are speakers, whose utterances err together; where
there are fewer than ``FEWEST_SPEAKERS``, utterances, which makes the intervals a little
too narrow. With one unit the interval is a point and says nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from espnet_llada.scoring.wer import Counts, Score

REPLICATES = 10_000
FEWEST_SPEAKERS = 10
_TAILS = (2.5, 97.5)  # percentiles
_DRAWN_AT_ONCE = 1 << 21  # indices; more would only take memory
_KEPT = 1 << 22  # numbers of draws that are kept, 32 MiB


@dataclass(frozen=True)
class Interval:
    """A rate or a change in percent, with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Estimate:
    """A word error rate; ``units`` speakers or utterances (``unit``) were resampled."""

    rate: Interval
    unit: str
    units: int


@dataclass(frozen=True)
class Change:
    """A system's word error rate less a baseline's, on the same utterances.

    Attributes:
        absolute: in percent points; below 0 the system is better.
        relative: in percent of the baseline's rate; None where that is 0.
        p: two-sided: twice the share of replicates on the far side of no change, but
            no less than ``units`` can show, 2 ** (1 - units).
    """

    absolute: Interval
    relative: Interval | None
    p: float

    @property
    def p_text(self) -> str:
        """Three decimals, as many as 10,000 replicates carry."""
        return f"{self.p:.3f}" if self.p >= 0.001 else "<0.001"


def estimate(
    score: Score,
    speakers: Mapping[str, str] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Estimate:
    """The word error rate of a system with its percentile interval.

    Args:
        score: counts of each utterance, in any order.
        speakers: utterance id -> speaker. As in sclite a name ends at its first
            hyphen, so the chapters of a LibriSpeech reader are one speaker. Without
            it, utterances are resampled.
        replicates: how many to draw.
        seed: of the draws; the same one gives the same result.
    """
    unit, groups = _units(score, speakers)
    drawn = _replicates(_sums(score, groups), replicates, seed)
    rates = np.concatenate([_percent(e, w) for e, w in drawn])
    return Estimate(_interval(score.wer, rates), unit, len(groups))


def compare(
    score: Score,
    baseline: Score,
    speakers: Mapping[str, str] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Change:
    """The change from a baseline to a system by the paired bootstrap.

    Args: as ``estimate``; ``baseline`` has the same utterances as ``score``.

    Raises:
        ValueError: the two do not have the same utterances.
    """
    if score.utterances.keys() != baseline.utterances.keys():
        raise ValueError("the systems were scored on different utterances")
    _, groups = _units(score, speakers)
    columns = (*_sums(score, groups), *_sums(baseline, groups))
    drawn = _replicates(columns, replicates, seed)
    pairs = [(_percent(e, w), _percent(f, v)) for e, w, f, v in drawn]
    new, old = (np.concatenate(side) for side in zip(*pairs, strict=True))
    difference = new - old
    absolute = score.wer - baseline.wer
    relative = None
    if baseline.wer:
        kept = old > 0  # a draw without an error of the baseline has no relative change
        ratios = 100.0 * difference[kept] / old[kept]
        relative = _interval(100.0 * absolute / baseline.wer, ratios)
    tail = min(np.sum(difference <= 0), np.sum(difference >= 0))
    # n units that all favour one side could do so by chance: the sign test's floor.
    floor = 2.0 ** (1 - len(groups))
    p = min(1.0, max(floor, 2.0 * (tail + 1) / (replicates + 1)))
    return Change(_interval(absolute, difference), relative, p)


def _units(
    score: Score, speakers: Mapping[str, str] | None
) -> tuple[str, list[list[str]]]:
    """What is resampled and its utterances, in an order that only the names decide."""
    groups: dict[str, list[str]] = {}
    if speakers is not None:
        for utt in sorted(score.utterances):
            groups.setdefault(speakers[utt].partition("-")[0], []).append(utt)
    if len(groups) >= FEWEST_SPEAKERS:
        return "speakers", [groups[name] for name in sorted(groups)]
    return "utterances", [[utt] for utt in sorted(score.utterances)]


def _sums(score: Score, groups: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Errors and reference words of each group, two arrays of shape (groups,)."""
    totals = [sum((score.utterances[u] for u in g), Counts()) for g in groups]
    return np.array([t.errors for t in totals]), np.array([t.words for t in totals])


def _replicates(
    columns: tuple[np.ndarray, ...], replicates: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield each column's sum over the draws (columns, n), n replicates at a time."""
    table = np.column_stack(columns).astype(np.float64)
    units = len(table)
    draws = _kept_draws if replicates * units <= _KEPT else _draws
    for times in draws(units, replicates, seed):
        yield np.rint(times @ table).T


def _draws(units: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """Yield (n, units) float64: how often the next n replicates draw each unit."""
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWN_AT_ONCE // units)
    for first in range(0, replicates, step):
        n = min(step, replicates - first)
        drawn = rng.integers(0, units, (n, units), dtype=np.int32)
        places = drawn + units * np.arange(n)[:, None]
        found = np.bincount(places.ravel(), minlength=units * n)
        yield found.reshape(n, units).astype(np.float64)


@functools.lru_cache(maxsize=8)
def _kept_draws(units: int, replicates: int, seed: int) -> list[np.ndarray]:
    """The same, kept: many systems on one set are compared on the same draws."""
    return list(_draws(units, replicates, seed))


def _percent(errors: np.ndarray, words: np.ndarray) -> np.ndarray:
    return 100.0 * errors / np.maximum(words, 1)  # as Score counts an empty reference


def _interval(value: float, values: np.ndarray) -> Interval:
    low, high = np.percentile(values, _TAILS)
    return Interval(value, float(low), float(high))
