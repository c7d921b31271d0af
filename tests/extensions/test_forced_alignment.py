"""The most probable CTC path, and who has a word's times."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from espnet_llada.extensions.forced_alignment import viterbi


def by_trying(log_probs: np.ndarray, text: list[int]) -> float:
    """The best log-probability of a text's paths, all of them tried."""
    best = -np.inf
    for path in itertools.product(range(len(text) + 1), repeat=len(log_probs)):
        said = [place for place, _ in itertools.groupby(path) if place]
        merged = [text[i - 1] for i in said] == text and said == sorted(set(said))
        steps = itertools.pairwise(path)
        fused = any(a and b == a + 1 and text[a - 1] == text[b - 1] for a, b in steps)
        if merged and not fused:
            value = sum(row[place] for row, place in zip(log_probs, path, strict=True))
            best = max(best, value)
    return best


@pytest.mark.parametrize("text", [[7], [7, 8], [7, 7], [7, 8, 7], [7, 7, 7]])
def test_it_is_the_best_of_all_paths(text):
    for seed in range(5):
        log_probs = np.random.default_rng(seed).normal(size=(6, 1 + len(text)))
        spans = viterbi(log_probs, text)
        places = np.zeros(6, int)
        for number, (first, last) in enumerate(spans, 1):
            places[first : last + 1] = number
        value = log_probs[np.arange(6), places].sum()
        assert value == pytest.approx(by_trying(log_probs, text))


def test_a_text_that_does_not_fit_has_no_path():
    some = np.zeros((3, 4))
    assert viterbi(some[:, :3], [7, 7]) == [(0, 0), (2, 2)]  # a blank between them
    assert viterbi(some[:2, :3], [7, 7]) is None
    assert viterbi(some[:2], [7, 8, 9]) is None
    assert viterbi(some[:0, :2], [7]) is None
    assert viterbi(some[:, :1], []) == []
