from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_llada.scoring.significance import FEWEST_SPEAKERS, compare, estimate
from espnet_llada.scoring.wer import Counts, Score

# (errors, words) of an utterance; no more errors than words, to keep Counts simple
PAIR = st.integers(0, 9).flatmap(lambda w: st.tuples(st.integers(0, w), st.just(w)))
UTTS = st.lists(PAIR, min_size=1, max_size=30)


def _score(pairs) -> Score:
    return Score(
        {
            f"u{i:04d}": Counts(hits=words - errors, substitutions=errors)
            for i, (errors, words) in enumerate(pairs)
        }
    )


def _speakers(score: Score, count: int) -> dict[str, str]:
    return {utt: f"s{i % count}-x" for i, utt in enumerate(score.utterances)}


@given(UTTS)
@settings(deadline=None)
def test_interval_contains_the_rate(pairs):
    wer = estimate(_score(pairs), replicates=500).rate
    assert wer.low <= wer.value + 1e-9
    assert wer.value <= wer.high + 1e-9
    assert wer.low >= 0


@given(UTTS)
@settings(deadline=None)
def test_a_system_does_not_differ_from_itself(pairs):
    score = _score(pairs)
    change = compare(score, score, replicates=200)
    assert change.p == 1.0
    values = change.absolute
    assert (values.value, values.low, values.high) == (0.0, 0.0, 0.0)
    assert (change.relative is None) == (score.wer == 0)


@given(UTTS, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_order_does_not_matter(pairs, shuffler: random.Random):
    score = _score(pairs)
    items = list(score.utterances.items())
    shuffler.shuffle(items)
    speakers = _speakers(score, 12)
    shuffled = Score(dict(items))
    assert estimate(shuffled, speakers, 200) == estimate(score, speakers, 200)
    other = _score([(0, words) for _, words in pairs])
    assert compare(shuffled, other, speakers, 200) == compare(
        score, other, speakers, 200
    )


def test_seed_decides():
    score = _score([(i % 5, 7) for i in range(40)])
    assert estimate(score, seed=1) == estimate(score, seed=1)
    assert estimate(score, seed=1) != estimate(score, seed=2)


def test_few_speakers_give_way_to_utterances():
    score = _score([(1, 5)] * 40)
    few = estimate(score, _speakers(score, FEWEST_SPEAKERS - 1))
    assert (few.unit, few.units) == ("utterances", 40)
    many = estimate(score, _speakers(score, FEWEST_SPEAKERS))
    assert (many.unit, many.units) == ("speakers", FEWEST_SPEAKERS)


def test_one_utterance_gives_a_point():
    wer = estimate(_score([(1, 4)])).rate
    assert (wer.low, wer.value, wer.high) == (25.0, 25.0, 25.0)


def test_speakers_that_err_together_widen_the_interval():
    pairs = [(8 * (i % 20 < 5), 10) for i in range(400)]  # five of twenty are poor
    score = _score(pairs)
    by_speaker = estimate(score, _speakers(score, 20)).rate
    by_utterance = estimate(score).rate
    assert by_speaker.high - by_speaker.low > 3 * (by_utterance.high - by_utterance.low)


def test_equals_a_plain_loop():
    """The draws are numpy's, the sums are done one by one."""
    rng = np.random.default_rng(3)
    new = [(int(e), 9) for e in rng.integers(0, 5, 15)]
    old = [(int(e), 9) for e in rng.integers(0, 9, 15)]
    drawn = np.random.default_rng(0).integers(0, 15, (300, 15), dtype=np.int32)
    rates, differences, ratios = [], [], []
    for row in drawn:
        a, b, words = (sum(side[i][k] for i in row) for side, k in
                       ((new, 0), (old, 0), (new, 1)))  # fmt: skip
        rates.append(100 * a / words)
        differences.append(100 * (a - b) / words)
        ratios.append(100 * (a - b) / b)
    one = estimate(_score(new), replicates=300).rate
    assert (one.low, one.high) == pytest.approx(np.percentile(rates, [2.5, 97.5]))
    change = compare(_score(new), _score(old), replicates=300)
    assert change.absolute.low == pytest.approx(np.percentile(differences, 2.5))
    assert change.relative.high == pytest.approx(np.percentile(ratios, 97.5))
    beyond = min(sum(d <= 0 for d in differences), sum(d >= 0 for d in differences))
    assert change.p == pytest.approx(2 * (beyond + 1) / 301)


def test_draws_in_pieces_are_as_many(monkeypatch):
    score = _score([(i % 4, 6) for i in range(50)])
    monkeypatch.setattr("espnet_llada.scoring.significance._DRAWN_AT_ONCE", 170)
    pieces = estimate(score, replicates=1000).rate
    monkeypatch.undo()
    whole = estimate(score, replicates=1000).rate
    assert (pieces.low, pieces.high) == (whole.low, whole.high)


def _simulate(rng: np.random.Generator, speakers: int, shift: float = 1.0) -> Score:
    """Speakers of different difficulty, 8 utterances of 12 words each."""
    rates = np.repeat(rng.beta(2, 18, speakers) * shift, 8)  # 10 % on average
    return _score([(int(e), 12) for e in rng.binomial(12, rates)])


def test_coverage_is_roughly_right():
    """Of 300 simulated test sets about 95 % of the intervals hold the true rate."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        score = _simulate(rng, 40)
        speakers = {u: f"s{i // 8}" for i, u in enumerate(score.utterances)}
        wer = estimate(score, speakers, replicates=400).rate
        held += wer.low <= 10.0 <= wer.high
    assert 0.90 <= held / 300 <= 0.98


def test_p_of_equal_systems_is_spread_out():
    """Independent systems of one true rate: p < 0.05 in about 5 % of the cases."""
    rng, rejected = np.random.default_rng(0), 0
    for _ in range(300):
        rates = np.repeat(rng.beta(2, 18, 40), 8)
        one, two = (
            _score([(int(e), 12) for e in rng.binomial(12, rates)]) for _ in "12"
        )
        rejected += compare(one, two, _speakers(one, 320), 400).p < 0.05
    assert 0.02 <= rejected / 300 <= 0.09


def test_a_clear_improvement_is_significant():
    old = _score([(3, 10)] * 50)
    new = _score([(2, 10)] * 45 + [(4, 10)] * 5)
    change = compare(new, old)
    assert change.p < 0.001
    assert change.p_text == "<0.001"
    assert change.absolute.value == pytest.approx(-8.0)
    assert change.relative.value == pytest.approx(-800 / 30)
    assert change.relative.high < 0


def test_few_units_cannot_show_much():
    two = compare(_score([(0, 5)] * 2), _score([(3, 5)] * 2))
    assert (two.absolute.high, two.p) == (-60.0, 0.5)
    assert compare(_score([(0, 5)]), _score([(3, 5)])).p == 1.0


def test_baseline_without_errors_has_no_relative_change():
    change = compare(_score([(1, 5)] * 12), _score([(0, 5)] * 12))
    assert change.relative is None
    assert change.absolute.value == pytest.approx(20.0)


def test_other_utterances_are_refused():
    with pytest.raises(ValueError, match="different utterances"):
        compare(_score([(0, 1)]), _score([(0, 1)] * 2))
